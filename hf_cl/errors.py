"""What stops a run by a sentence: data that cannot be used as they are, a folder that holds another run, a signal."""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Iterable
from pathlib import Path


class DataError(ValueError):
    """The data, or a list that points into it, cannot be used as it is. The message names the offenders and what decides about them."""

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(brief(line, 2000) for line in message.split("\n")))


class UnreadableImageError(DataError):
    """One image cannot be decoded."""

    def __init__(self, where: str, cause: str) -> None:
        super().__init__(f"{brief(where)} cannot be read as an image: {cause}.")
        self.where = where
        self.cause = cause


class CandidateFailedError(RuntimeError):
    """A run of a search ended in another way than by diverging."""


class TrainingInterruptedError(RuntimeError):
    """A signal stopped the run after a checkpoint was written. `exit_status` is what a shell expects: 128 + the signal's number."""

    def __init__(self, number: int, checkpoint: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"Stopped by {name}; checkpoint {checkpoint}. The same command with --resume auto goes on from there.")
        self.exit_status = 128 + number


def first_ten(offenders: Iterable[str]) -> str:
    """The first ten, each made brief, joined, with an ellipsis where there are more."""
    listed = list(offenders)
    return ", ".join(map(brief, listed[:10])) + (", ..." if len(listed) > 10 else "")


def brief(text: str, limit: int = 200) -> str:
    """On one line and short, whatever a file or a class is called; what a terminal would obey is escaped."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text[:limit])
    return shown if len(text) <= limit else f"{shown}..."


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; False also for what can be no path at all."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, a link that leads to itself
        return False


def refuse_two_meanings(name: str, shipped: str) -> None:
    """Raise DataError where a name that hf_cl gives a meaning is also that of a folder here."""
    if exists(Path(name)):
        kind = "a folder" if Path(name).is_dir() else "a file"
        raise DataError(f"{name!r} is {shipped}, and {kind} here: say ./{name} for yours, or run from another folder for {shipped}.")


def near_path(path: str | Path) -> str:
    """` Did you mean 'x'?` for a path that is not there and has a neighbour of nearly its name, or nothing."""
    folder = Path(path).parent
    if not exists(folder) or not folder.is_dir():
        return ""
    known = {entry.name: str(entry) for entry in folder.iterdir() if not entry.name.startswith(".")}
    close = difflib.get_close_matches(Path(path).name, known, n=1, cutoff=0.6)
    return f" Did you mean {known[close[0]]!r}?" if close else ""


def no_such_dataset(dataset: str) -> str:
    """What is said of a name that is nothing here and cannot be on the Hub."""
    return f"{dataset!r} is no folder or file here, and cannot be a Hub id (owner/name).{near_path(dataset) or ' Is the path right?'}"


def holds_a_run(path: Path) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any(path.glob("checkpoints/step-*"))


def unasked(path: Path) -> str:
    """What is said of a folder with a run that nobody asked to resume."""
    return f"{path} holds a run. Go on with it by --resume auto, or choose another --output_dir."


def refuse_unwritable(path: Path) -> None:
    """Raise ValueError where no folder can be made or written to at `path`, as far as looking tells."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if exists(folder))
    if not there.is_dir():
        raise ValueError(f"Cannot write to {path}: {there} is a file. Choose another --output_dir.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"Cannot write to {path}: {there} may not be written to. Choose another --output_dir.")


def refuse_unasked(path: Path, resume: str | None) -> None:
    """Raise ValueError for a folder with a run that nobody asked to resume."""
    if resume is None and holds_a_run(path):
        raise ValueError(unasked(path))
