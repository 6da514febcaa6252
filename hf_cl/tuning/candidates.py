"""Candidates as runs: ordinary run folders inside the search's, made by `hf-cl train ... --resume auto` through the engines of a sweep."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

from hf_cl.errors import CandidateFailedError
from hf_cl.results.results import Results
from hf_cl.settings import RunSettings
from hf_cl.tuning.choice import Measured
from hf_cl.tuning.engines import ENGINES
from hf_cl.tuning.search import Length
from hf_cl.tuning.space import Values, flags_of
from hf_cl.tuning.study import Job, Study, read_state, write_study

SHORT = 4
"""A short run has this part of the epochs."""
DIVERGED = "not finite"
"""What a run says of itself that diverged."""
OBJECTIVES = ("final_accuracy", "average_incremental_accuracy")


@dataclass(frozen=True)
class Runs:
    """How candidates run.

    Args:
        folder: of the search; the runs lie in `candidates` inside it.
        method: its name.
        settings: the base's.
        flags: those the base was asked for by, as `hf-cl train` takes them.
        sessions, validation_fraction: the stream that is searched on.
        objective: of `OBJECTIVES`.
        seeds: runs of a candidate in full.
        engine, jobs, options: where runs run, and how many at a time.
    """

    folder: Path
    method: str
    settings: RunSettings
    flags: tuple[str, ...]
    sessions: int = 2
    validation_fraction: float = 0.2
    objective: str = OBJECTIVES[0]
    seeds: int = 1
    engine: str = "local"
    jobs: int = 1
    options: tuple[tuple[str, Any], ...] = ()

    def measure(self, points: Sequence[Values], length: Length) -> list[Measured]:
        """`hf_cl.tuning.search.Measure`. Raises CandidateFailedError where a run failed in another way than by
        diverging, or was stopped."""
        if not points:
            return []
        jobs = [self._jobs(values, length) for values in points]
        place = self.folder / "candidates"
        every = list({job.name: job for some in jobs for job in some}.values())
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / "study.lock"):
            write_study(Study(place, tuple(every)))
        waiting = [job.name for job in every if read_state(place, job.name) != "done" and not self._diverged(job.name)]
        ENGINES[self.engine](place, waiting, self.jobs, dict(self.options))
        return [self._measured([job.name for job in some]) for some in jobs]

    def common(self) -> list[str]:
        """Flags of every run of the search, which come after the base's own and before the candidate's."""
        kept = ["--test_on=validation", f"--max_sessions={self.sessions}", f"--validation_fraction={self.validation_fraction}"]
        quiet = ["--keep_adapters=last", "--marks=[]", "--check_images=none", "--push_to_hub=null", "--private=false"]
        shelf = [] if self.settings.feature_cache else [f"--feature_cache={self.folder / 'features'}"]
        return [*kept, *quiet, *shelf]

    def flags_for(self, values: Values, length: Length = "full") -> list[str]:
        """Of one run, without its folder and seed."""
        return [*self.flags, *self.common(), *flags_of(self.settings, values | (self._shortened(values) if length == "short" else {}))]

    def _jobs(self, values: Values, length: Length) -> list[Job]:
        name = "-".join(f"{key}={re.sub(r'[^A-Za-z0-9._+]+', '_', str(value))}" for key, value in values.items()) or "base"
        if length == "short":
            name += "-short"
        runs = [(name, [])]
        if length == "full":
            runs += [(f"{name}-seed={seed}", [f"--seed={seed}"]) for seed in range(self.settings.seed + 1, self.settings.seed + self.seeds)]
        place = self.folder / "candidates"
        return [
            Job(run, self.method, (*self.flags_for(values, length), *own, f"--output_dir={place / run}", "--resume=auto"))
            for run, own in runs
        ]

    def _shortened(self, values: Values) -> Values:
        return {name: math.ceil(values.get(name, base) / SHORT) for name, base in epochs_of(self.settings).items()}

    def share(self) -> float:
        """Of the base's epochs that a short run has; 1 where there are none to leave out."""
        epochs = epochs_of(self.settings)
        return sum(self._shortened({}).values()) / sum(epochs.values()) if sum(epochs.values()) else 1.0

    def _diverged(self, name: str) -> bool:
        return read_state(self.folder / "candidates", name) == "failed" and DIVERGED in self._last_words(name)

    def _last_words(self, name: str) -> str:
        path = self.folder / "candidates" / "output" / f"{name}.txt"
        lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
        return lines[-1] if lines else "it said nothing"

    def _measured(self, names: Sequence[str]) -> Measured:
        found: list[Results] = []
        for name in names:
            if self._diverged(name):
                return Measured(None, 0, run=name)
            state = read_state(self.folder / "candidates", name)
            if state != "done":
                raise CandidateFailedError(
                    f"The run {name} {'failed' if state == 'failed' else 'was ' + state}: {self._last_words(name)} "
                    f"({self.folder / 'candidates' / 'output' / name}.txt). The same command goes on."
                )
            found.append(Results.load(self.folder / "candidates" / name / "results.json"))
        accuracies = [float(one.numbers[self.objective]) for one in found]
        seconds = sum(one.times.total for one in found if one.times is not None)
        return Measured(sum(accuracies) / len(accuracies), sum(found[0].test_counts), seconds, names[0])


def epochs_of(settings: RunSettings) -> dict[str, int]:
    """Settings that say how long a run trains."""
    return {
        field.name: value
        for field in fields(settings)
        if field.name.endswith("epochs") and isinstance(value := getattr(settings, field.name), int)
    }
