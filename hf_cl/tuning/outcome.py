"""What a search leaves behind: tune.json, best.yaml that `hf-cl train --config` takes, and tune.html."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.charts import Chart, Line, figure
from hf_cl.results.display import without_folders
from hf_cl.results.pages import page_templates
from hf_cl.settings import MAY_CHANGE_ON_RESUME, RunSettings
from hf_cl.tuning.choice import Candidate, Choice, Measured, Plan
from hf_cl.tuning.space import Range, Space, Values

KEPT = frozenset({"feature_cache", "num_workers", "imports", "image_memory"})
"""Settings that change no result and still belong in the config that goes on."""


@dataclass(frozen=True)
class Outcome:
    """A search that has ended."""

    method: str
    settings: RunSettings
    space: Space
    plan: Plan
    candidates: Sequence[Candidate]
    choice: Choice
    objective: str
    sessions: int
    validation_fraction: float

    @property
    def images(self) -> int:
        """Validation images that every candidate was measured on."""
        base = self.candidates[0].full
        return base.images if base is not None else 0

    @property
    def tuned_on(self) -> str:
        """What the settings were chosen on, in a sentence."""
        stream = "session 0" if self.sessions == 1 else f"sessions 0 to {self.sessions - 1}"
        return (
            f"{self.objective} on {self.images} validation images ({100 * self.validation_fraction:g} % of the training images) of "
            f"{stream} of {without_folders(self.settings.dataset)}, class_order_seed {self.settings.class_order_seed}; "
            "no test image was used."
        )

    @property
    def verdict(self) -> str:
        """What was chosen, in a sentence or two."""
        taken, best, base = self.choice.taken, self.choice.best, self.candidates[0]
        assert base.full is not None and best.full is not None and taken.full is not None
        rivals = sum(one.full is not None for one in self.candidates) - 1
        if taken.number == 0:
            above = 100 * (best.full.worth - base.full.worth)
            return (
                f"The base stays: the best of {rivals} {'candidate' if rivals == 1 else 'candidates'} that ran in full lies {above:.1f} "
                f"points above it, and luck alone could give {100 * self.choice.needed:.1f}."
            )
        changed = ", ".join(f"{name} {self.space.base[name]} -> {value}" for name, value in taken.values.items())
        tie = "" if taken == best else " (a better one is a tie with it, and a larger change)"
        return f"{changed}: {100 * taken.full.worth:.1f} instead of {100 * base.full.worth:.1f} % on validation images{tie}."

    def write(self, folder: Path) -> None:
        """The three files."""
        write_atomically(folder / "tune.json", json.dumps(self.record(), indent=2))
        write_atomically(folder / "best.yaml", self.config())
        write_atomically(folder / "tune.html", self.page())

    def record(self) -> dict[str, Any]:
        """tune.json."""
        return {
            "method": self.method,
            "objective": self.objective,
            "tuned_on": self.tuned_on,
            "verdict": self.verdict,
            "taken": self.choice.taken.number,
            "needed": self.choice.needed,
            "budget": self.plan.budget,
            "spent": self.plan.spent(self.candidates),
            "over": self.space.described(),
            "candidates": [asdict(one) for one in self.candidates],
        }

    def config(self) -> str:
        """best.yaml: every setting that differs from the method's defaults."""
        values = self._settings()
        lines = [f"# hf-cl train {self.method} --config best.yaml --output_dir runs/final", f"# Chosen by hf-cl tune: {self.tuned_on}"]
        return "\n".join(lines) + "\n" + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10_000)

    def _settings(self) -> Values:
        defaults = {
            field.name: field.default if field.default_factory is MISSING else field.default_factory() for field in fields(self.settings)
        }
        leave = (MAY_CHANGE_ON_RESUME - KEPT) | {"test_on", "max_sessions"}
        values = {name: value for name, value in vars(self.settings).items() if name in defaults and name not in leave}
        for name, value in self.choice.taken.values.items():
            first, *inside = name.split(".")
            if not inside:
                values[first] = value
                continue
            whole = json.loads(json.dumps(values[first]))
            place = whole
            for key in inside[:-1]:
                place = place.setdefault(key, {})
            if value is not None:
                place[inside[-1]] = value
            values[first] = whole
        searched = {one.name.split(".")[0] for one in self.space.ranges}
        return {name: value for name, value in values.items() if value != defaults[name] or name in searched} | {"tuned_on": self.tuned_on}

    def page(self) -> str:
        """tune.html."""
        ranked = sorted(self.candidates, key=lambda one: (one.full is None, -(one.full or one.short or Measured(0.0, 0)).worth))
        return (
            page_templates()
            .get_template("tune.html.jinja")
            .render(
                outcome=self,
                names=[one.name for one in self.space.ranges],
                ranked=ranked,
                charts=[figure(chart) for chart in self._charts()],
                spent=self.plan.spent(self.candidates),
                numbers=self._numbers,
            )
        )

    def _numbers(self, found: Measured | None) -> str:
        if found is None:
            return "–"
        return "diverged" if found.accuracy is None else f"{100 * found.worth:.1f} ± {100 * found.error:.1f}"

    def _charts(self) -> Iterator[Chart]:
        """A chart per setting whose values are numbers."""
        for one in self.space.ranges:
            if (one.choices and not one.ordered) or not isinstance(self.space.base[one.name], int | float):
                continue
            places = sorted({_place(one, point.values[one.name]) for point in self.candidates if _placed(one, point.values[one.name])})
            lines = [_line(one, places, self.candidates[1:], "full", 0), _line(one, places, self.candidates[1:], "short", 1)]
            lines.append(_line(one, places, self.candidates[:1], "full", 2, name="the base"))
            kept = [line for line in lines if any(value is not None for value in line.values)]
            if len(places) > 1:
                yield Chart(
                    title=f"{self.objective} on validation images, percent",
                    x=places,
                    x_label=one.name,
                    lines=kept,
                    most=(0, 100),
                    log_x=one.log,
                    x_ticks=_ticks(places) if one.log else None,
                    height=240,
                )


def _placed(one: Range, value: Any) -> bool:
    return isinstance(value, int | float) and (not one.log or value > 0)


def _place(one: Range, value: float) -> float:
    return float(f"{value:.4g}") if one.log else float(value)


def _ticks(places: Sequence[float]) -> list[float]:
    """Ones and threes of the decades that are spanned; the ends where no two of them lie inside."""
    low, high = math.floor(math.log10(places[0])), math.ceil(math.log10(places[-1]))
    found = [float(f"{digit}e{power}") for power in range(low, high + 1) for digit in (1, 3)]
    inside = [tick for tick in found if places[0] <= tick <= places[-1]]
    return inside if len(inside) > 1 else [places[0], places[-1]]


def _line(one: Range, places: Sequence[float], candidates: Sequence[Candidate], length: str, style: int, name: str = "") -> Line:
    """The best candidate at each place, with one standard error to each side."""
    found: dict[float, Measured] = {}
    for point in candidates:
        measured: Measured | None = getattr(point, length)
        if measured is not None and measured.accuracy is not None and _placed(one, point.values[one.name]):
            place = _place(one, point.values[one.name])
            found[place] = max(found.get(place, measured), measured, key=lambda m: m.worth)
    rows = [found.get(place) for place in places]
    values, low, high = ([None if m is None else round(100 * (m.worth + sign * m.error), 2) for m in rows] for sign in (0, -1, 1))
    return Line(name=name or {"full": "in full", "short": "shortened"}[length], values=values, low=low, high=high, style=style)
