"""A study: which runs there are, in which folders, and in what state each is.

Every run is an ordinary run folder inside the study's, made by `hf-cl train ... --resume auto`, so a study that was stopped goes on by the
same command, and each run can be looked at, resumed and compared by itself.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from hf_cl.results.atomic_write import write_atomically

FILE = "study.json"
State = Literal["waiting", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """One run: `hf-cl train METHOD *flags`, in the study's folder `name`."""

    name: str
    method: str
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """The runs of a study, and the keys of the protocol in which they differ."""

    folder: Path
    jobs: tuple[Job, ...]
    across: tuple[str, ...] = ()


def plan(
    folder: Path,
    methods: Sequence[str],
    flags: Sequence[str],
    *,
    seeds: Sequence[int] = (),
    class_orders: Sequence[int] = (),
    grid: Mapping[str, Sequence[str]] | None = None,
) -> Study:
    """Methods x settings of the grid x class orders x seeds.

    Args:
        folder: of the study.
        methods: names, as `hf-cl train` takes them.
        flags: what all runs share, `--key value`.
        seeds, class_orders: values of `seed` and `class_order_seed`; none: the config's.
        grid: values of other settings, as a flag takes them.

    Raises ValueError where two runs would have one folder.
    """
    axes = [[("method", method) for method in methods]]
    axes += [[(key, value) for value in values] for key, values in (grid or {}).items()]
    axes += [[(key, str(value)) for value in values] for key, values in (("class_order_seed", class_orders), ("seed", seeds)) if values]
    jobs = []
    for (_, method), *chosen in itertools.product(*axes):
        name = "-".join([method, *(f"{key}={re.sub(r'[^A-Za-z0-9._+]+', '_', value)}" for key, value in chosen)])
        own = [part for key, value in chosen for part in (f"--{key}", value)]
        jobs.append(Job(name, method, (*flags, *own, "--output_dir", str(folder / name), "--resume", "auto")))
    names = [job.name for job in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two runs of the study would have the folder {twice[0]!r}; name each method and value once.")
    orders = {*map(str, class_orders), *(grid or {}).get("class_order_seed", ())}
    return Study(folder, tuple(jobs), ("class_order_seed",) if len(orders) > 1 else ())


def write_study(study: Study) -> None:
    """Write `study.json`. A folder may grow by runs; what it has been asked for stays.

    Raises ValueError where a run of the same name had other flags.
    """
    study.folder.mkdir(parents=True, exist_ok=True)
    if (study.folder / FILE).is_file():
        before = {job.name: job for job in read_study(study.folder).jobs}
        for job in study.jobs:
            if job.name in before and before[job.name] != job:
                raise ValueError(
                    f"{study.folder} has the run {job.name} with other settings: {' '.join(before[job.name].flags)}. Choose another "
                    "--output_dir."
                )
        kept = tuple(job for name, job in before.items() if name not in {job.name for job in study.jobs})
        study = Study(study.folder, (*kept, *study.jobs), study.across)
    values = {"across": study.across, "jobs": [asdict(job) for job in study.jobs]}
    write_atomically(study.folder / FILE, json.dumps(values, indent=2))


def read_study(folder: Path) -> Study:
    """The study of a folder. Raises ValueError where there is none."""
    try:
        values = json.loads((folder / FILE).read_text())
        jobs = tuple(Job(job["name"], job["method"], tuple(job["flags"])) for job in values["jobs"])
        return Study(folder, jobs, tuple(values["across"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} holds no study that hf-cl sweep began ({FILE}: {error}).") from error


def write_state(folder: Path, name: str, state: State, exit_status: int | None = None) -> None:
    """Note the state of a run."""
    (folder / "states").mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "states" / f"{name}.json", json.dumps({"state": state, "exit_status": exit_status, "time": time.time()}))


def read_state(folder: Path, name: str) -> State:
    """What was noted last; "waiting" where nothing was."""
    return _noted(folder, name)[0]


def ended_since(folder: Path, name: str, moment: float) -> State | None:
    """How a run ended, if it has since a `moment` (seconds of the epoch)."""
    state, when = _noted(folder, name)
    return state if state in ("done", "failed", "stopped") and when >= moment else None


def _noted(folder: Path, name: str) -> tuple[State, float]:
    """The state that was noted last, and when."""
    path = folder / "states" / f"{name}.json"
    if not path.is_file():
        return "waiting", 0.0
    noted = json.loads(path.read_text())
    return noted["state"], noted["time"]


def progress(folder: Path, name: str) -> tuple[int, float | None, float | None]:
    """Of a run: sessions that have ended, accuracy after the last of them (None where there is none), and when it last wrote something."""
    log, results = folder / name / "log.jsonl", folder / name / "results.json"
    written = log.stat().st_mtime if log.is_file() else None
    if not results.is_file():
        return 0, None, written
    values = json.loads(results.read_text())
    return len(values["sessions"]), values["metrics"].get("final_accuracy"), written
