"""Several runs beside each other: mean and standard deviation over seeds, by method.

Only what is comparable is averaged. Runs belong to one group where method and settings are the same but for the seed, and groups stand
side by side where the protocol, the stream of classes and images, is the same.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hf_cl.hints import nearest
from hf_cl.results.display import flat, shown
from hf_cl.results.saved_run import Run
from hf_cl.results.table import headlines
from hf_cl.settings import MAY_CHANGE_ON_RESUME

DDOF = 1
"""The standard deviation divides by n - 1: the runs are a sample of seeds."""
NO_DIFFERENCE = MAY_CHANGE_ON_RESUME | {
    "seed", "eval_batch_size", "cpu", "stability_every", "probes", "push_to_hub", "private", "license",
    "dataset", "image_column", "label_column", "test_split", "skip_bad_images", "protocol", "protocol_options",
    "num_base_classes", "classes_per_session",
    "class_order", "class_order_seed", "shots", "index_list", "targets",
}  # fmt: skip
"""Settings that do not part runs into groups: where and how a run ran, and what its protocol says already."""
_NOT_ASKED = ("details", "validation_fraction")
"""No reason against a comparison: empty details are none, and whether a method holds training images out is its own affair, as its head's
is; the test images are the same, and groups are told apart by the setting."""
OF_ALL_METHODS = ("backbone", "backbone_revision")
"""Settings that groups are told apart by whatever their method."""


@dataclass(frozen=True)
class Spread:
    """A metric over the runs of a group."""

    mean: float
    std: float | None
    """None for a single run."""
    values: tuple[float, ...]
    """In the order of the group's runs."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    """The method, and the settings in which it differs from the other groups."""
    runs: tuple[Run, ...]

    @property
    def method(self) -> str:
        """Its name, as `hf-cl train` takes it."""
        return _name(self.runs[0])

    @property
    def seeds(self) -> list[int]:
        """Of the runs, in their order."""
        return [run.results.seed for run in self.runs]

    @property
    def kept_images(self) -> str:
        """Training images that its runs kept to train on again: "none" (exemplar-free), "40", or "38 to 40"."""
        counts = sorted({run.results.kept_images for run in self.runs})
        return "none" if counts == [0] else " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))

    def spread(self, values: Sequence[float | None]) -> Spread | None:
        """Mean and standard deviation of one value per run; None where a run does not have it."""
        known = tuple(value for value in values if value is not None)
        if len(known) < len(self.runs):
            return None
        return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, known)

    def metric(self, name: str) -> Spread | None:
        """A scalar metric of `hf_cl.metrics`, or a number of a probe; None where it is not defined for every run."""
        return self.spread([run.results.numbers.get(name) for run in self.runs])

    def over_sessions(self, name: str) -> list[Spread | None]:
        """A metric that has a value per session."""
        found: list[Any] = [run.results.metrics[name] for run in self.runs]
        return [self.spread(values) for values in zip(*found, strict=False)]


@dataclass(frozen=True)
class Comparison:
    """Groups of runs under one protocol."""

    groups: tuple[Group, ...]
    metrics: tuple[str, ...]
    """What was asked for; else the headline numbers that any of the runs has, their marks, and the numbers of their probes."""
    protocol: dict[str, Any]
    """What all runs share."""
    across: dict[str, list[Any]]
    """Protocol keys that differ although the runs are compared, with the values found."""


class ProtocolsDifferError(ValueError):
    """Runs of different protocols are to be compared; `keys` are those that differ."""

    def __init__(self, differing: dict[str, list[Any]]) -> None:
        self.keys = list(differing)
        said = "; ".join(f"{key}: {' / '.join(shown(value) for value in values)}" for key, values in differing.items())
        super().__init__(f"These runs have different protocols, so their numbers are not comparable. {said}.")


def compare(runs: Sequence[Run], across: Iterable[str] = (), metrics: Sequence[str] = (), scale: str | None = None) -> Comparison:
    """Group runs and set them side by side.

    Args:
        runs: at least one.
        across: protocol keys that may differ, such as `class_order_seed` where the mean goes over class orders. `class_names`, which
            follow from the order, may differ with any of them.
        metrics: names of single numbers to compare; none: the headline numbers, marks, and those of probes.
        scale: a key of protocol or settings over which a group is a curve (`hf_cl.results.scaling`): runs of one group may differ in it,
            and in what their parts make of it.

    Raises ProtocolsDifferError where another key of the protocol differs; ValueError for an unknown key in `across`, a metric that none
    of the runs has, a run without a method's name, or two runs of one group with the same seed.
    """
    protocols = [protocol_of(run) for run in runs]
    across = set(across)
    if unknown := across - {key for protocol in protocols for key in protocol}:
        raise ValueError(f"{sorted(unknown)[0]!r} is no key of a protocol; it has {', '.join(protocols[0])}.")
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    across = across | {key for key in keys if key == scale}
    differing = {key: _distinct(values) for key in keys if len(_distinct(values := [p.get(key) for p in protocols])) > 1}
    allowed = across | ({"class_names"} if across else set())
    refused = {key: values for key, values in differing.items() if key not in allowed}
    if refused:
        _check_finished(runs, refused.keys())
        if len(refused) > 1:
            refused.pop("class_names", None)  # it follows from the others, and would fill the screen
        raise ProtocolsDifferError(refused)
    groups = _groups(runs, across, scale)
    common = {key: value for key, value in protocols[0].items() if key not in differing and key != "class_names"}
    return Comparison(groups, _metrics(runs, metrics), common, {key: values for key, values in differing.items() if key != "class_names"})


def _metrics(runs: Sequence[Run], wanted: Sequence[str]) -> tuple[str, ...]:
    if not wanted:
        found = [run.results for run in runs]
        return tuple(dict.fromkeys(name for one in found for name in (*headlines(one), *one.marks, *one.probe_numbers)))
    known = {name for run in runs for name in run.results.numbers}
    for name in wanted:
        if name not in known:
            raise ValueError(f"None of the runs has a single number {name!r}.{nearest(name, known)} They have {', '.join(_listed(known))}.")
    return tuple(dict.fromkeys(wanted))


def _listed(known: Iterable[str]) -> list[str]:
    """Names in order; of metrics with a value per session the first one stands for all."""
    return sorted(name for name in known if not name.endswith("]") or name.endswith("[0]"))


def _check_finished(runs: Sequence[Run], differing: Iterable[str]) -> None:
    """Raise ValueError where protocols differ only because a run has not come to its end."""
    most = max(len(run.results.sessions) for run in runs)
    short = next((run for run in runs if len(run.results.sessions) < most), None)
    if short is not None and {*differing} <= {"sessions", "test_images", "class_names"}:
        done = len(short.results.sessions)
        raise ValueError(
            f"{short.folder} has {done} of {most} sessions. If it was stopped, go on with it by the same command and --resume auto."
        )


def protocol_of(run: Run) -> dict[str, Any]:
    """The protocol's keys as results.json has them, the number of sessions, test images, and the classes of each session."""
    results = run.results
    return {
        **{key: value for key, value in flat(asdict(results.protocol)).items() if key not in _NOT_ASKED},
        "sessions": len(results.sessions),
        "test_images": sum(results.test_counts),
        "class_names": [" ".join(session.new_class_names) for session in results.sessions],
    }


def _groups(runs: Sequence[Run], across: set[str], scale: str | None = None) -> tuple[Group, ...]:
    nameless = [str(run.folder) for run in runs if run.results.method is None]
    if nameless:
        raise ValueError(f"{nameless[0]}: results.json does not name the method, so nothing can be grouped by it.")
    parted: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        settings = {key: value for key, value in flat(run.settings).items() if key.split(".")[0] not in NO_DIFFERENCE and key != scale}
        made = "" if scale is not None else repr(_made_of(run))
        parted.setdefault((_name(run), repr(sorted(settings.items())), made), []).append(run)
    groups = list(parted.values())
    for group in groups:
        _check_seeds(group, across, scale)
    return tuple(Group(_label(group[0], [other[0] for other in groups], scale), tuple(group)) for group in groups)


def _name(run: Run) -> str:
    assert run.results.method is not None  # checked by `_groups`
    return run.results.method.name


def _made_of(run: Run) -> dict[str, Any]:
    """What tells compositions apart whose name and settings are the same: losses, rule, adapter."""
    return {key: value for key, value in flat(run.composition).items() if key not in ("name", "sessions")}


def draw_of(run: Run, across: Iterable[str]) -> tuple[Any, ...]:
    """What a run was one draw of: its seed, and the values of the protocol's keys that the mean goes over."""
    protocol = protocol_of(run)
    return (run.results.seed, *(protocol.get(key) for key in sorted(across)))


def _check_seeds(group: Sequence[Run], across: set[str], scale: str | None) -> None:
    seen: dict[str, Run] = {}
    for run in group:
        draw = repr((draw_of(run, across), flat(run.settings).get(scale or "")))
        if draw in seen:
            same = f"method, settings and seed ({run.results.seed})"
            raise ValueError(f"{seen[draw].folder} and {run.folder} are the same {same}: one of them would count twice.")
        seen[draw] = run


def _label(run: Run, others: Sequence[Run], scale: str | None) -> str:
    """The method's name, with the settings that another group of the same method has otherwise."""
    mine = flat(run.settings)
    same_method = [flat(other.settings) for other in others if _name(other) == _name(run)]
    everyone = [flat(other.settings) for other in others]
    keys = [key for key in mine if key.split(".")[0] not in NO_DIFFERENCE and key != scale]
    told_apart = [key for key in keys if any(other.get(key) != mine[key] for other in (everyone if key in OF_ALL_METHODS else same_method))]
    words = [f"{key} {shown(mine[key])}" for key in told_apart]
    if not words and scale is None:  # the same settings: a composition of somebody's own
        made = _made_of(run)
        others_made = [_made_of(other) for other in others if _name(other) == _name(run)]
        words = [f"{key} {shown(made[key])}" for key in made if any(other.get(key) != made[key] for other in others_made)]
    return _name(run) + (f" ({', '.join(words)})" if words else "")


def _distinct(values: Iterable[Any]) -> list[Any]:
    """In order of appearance; values need not be hashable."""
    found: list[Any] = []
    for value in values:
        if value not in found:
            found.append(value)
    return found
