"""Which runs make an ensemble: those of one stream of classes and images, on one backbone, whose adapters are all there; and how far apart
its members are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_cl.hints import refuse
from hf_cl.results.comparison import OF_ALL_METHODS, protocol_of
from hf_cl.results.display import flat, shown
from hf_cl.results.results import Results
from hf_cl.results.saved_run import Run
from hf_cl.settings import MAY_CHANGE_ON_RESUME

_OF_PIXELS = ("normalize",)
"""Settings beside the backbone that say which pixels a model is given."""


def check_members(runs: Sequence[Run]) -> None:
    """Raise ValueError, with all that is wrong of all of them, where runs do not make an ensemble."""
    faults = [] if len(runs) > 1 else [f"An ensemble takes two runs or more, got {len(runs)}."]
    seen: dict[str, Run] = {}
    for run in runs:
        where, same = str(run.folder.resolve()), repr(_what_it_was(run))
        if where in seen:
            faults.append(f"{run.folder} is named twice; a member counts once.")
        elif same in seen:
            faults.append(f"{seen[same].folder} and {run.folder} are the same method, settings and seed: their average is either of them.")
        else:
            seen |= {where: run, same: run}
        faults += [f"{run.folder}: {fault}" for fault in _missing(run)]
    for run in runs[1:]:
        faults += [f"{run.folder} does not go with {runs[0].folder}: {fault}" for fault in _differences(runs[0], run)]
    refuse(faults)


def adapter_of(run: Path, session: int) -> Path:
    """Where a run keeps the adapter of a session."""
    return run / "adapters" / f"session-{session}"


def other_classes(first: Sequence[str], other: Sequence[str]) -> str:
    """Where two lists of classes differ first."""
    if sorted(first) == sorted(other):
        place = next(i for i, (a, b) in enumerate(zip(first, other, strict=True)) if a != b)
        return f"its classes stand in another order; class {place} is {other[place]!r}, not {first[place]!r}."
    missing, new = ([name for name in mine if name not in set(theirs)] for mine, theirs in ((first, other), (other, first)))
    said = [f"{missing[0]!r} is missing"] if missing else []
    said += [f"{new[0]!r} is {'there instead' if missing else 'new'}"] if new else []
    return f"it has other classes: {', '.join(said)}."


def disagreement_sentence(results: Results) -> str:
    """How far the members of an ensemble are apart after the last session; "" where they were not asked one by one."""
    found, count = results.probes.get("disagreement"), len(results.comparisons)
    if found is None:
        return ""
    return (
        f"The members disagree by {found['nats']:.2f} nats in the mean (0: all say the same; at most {math.log(count):.2f} for {count}). "
        f"On {found['images']:.0%} of the test images they do not all name the same class: what averaging can change."
    )


def _what_it_was(run: Run) -> tuple[Any, ...]:
    settings = {key: value for key, value in flat(run.settings).items() if key.split(".")[0] not in MAY_CHANGE_ON_RESUME}
    return (
        run.method,
        run.results.seed,
        sorted(settings.items(), key=lambda entry: entry[0]),
        sorted(flat(run.composition).items(), key=str),
    )


def _missing(run: Run) -> list[str]:
    """What keeps it out of every ensemble."""
    faults = []
    gone = [str(session.id) for session in run.results.sessions if not adapter_of(run.folder, session.id).is_dir()]
    if gone:
        faults.append(f"it has no adapter of session {', '.join(gone)}; --keep_adapters all keeps them.")
    if run.results.started_from_adapter:
        faults.append("it began with another run's adapter (start_from), whose images of session 0 nobody has here.")
    if "dataset" not in run.settings:
        faults.append("its config.yaml names no data set (it was started from Python), so its test images cannot be opened again.")
    return faults


def _differences(first: Run, run: Run) -> list[str]:
    faults = []
    mine, theirs = protocol_of(first), protocol_of(run)
    if run.results.class_names != first.results.class_names:
        faults.append(other_classes(first.results.class_names, run.results.class_names))
    keys = [key for key in dict.fromkeys((*mine, *theirs)) if key != "class_names"]
    faults += _told_apart(mine, theirs, keys)
    return faults + _told_apart(first.settings, run.settings, (*OF_ALL_METHODS, *_OF_PIXELS))


def _told_apart(first: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    differing = [key for key in keys if first.get(key) != other.get(key)]
    return [f"its {key} is {shown(other.get(key))}, not {shown(first.get(key))}." for key in differing]
