"""Parts of one's own: files and modules that a command imports, and packages that announce theirs.

A head, loss, adapter or method of your own is known to a process that has imported its file. `--import my_parts.py` does so on every
command; an installed package says it in its own pyproject.toml, by an entry point of the group `hf_cl.parts` whose value is the module.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import yaml

GROUP = "hf_cl.parts"
logger = logging.getLogger(__name__)
_given: list[str] = []
"""What this process was told to import, as it was written."""


def import_parts(names: Sequence[str] = ()) -> None:
    """Import the modules that installed packages announce, then `names`: files (`my_parts.py`) or modules (`my_package.parts`).

    A file is imported under its own name without `.py`, and may import its neighbours. Importing again does nothing.

    Raises ValueError for a file or module that is not there, or whose name another module has; what the file itself raises goes through.
    """
    for entry in announced():
        try:
            entry.load()
        except ImportError as error:
            logger.warning("The entry point %s = %s announces parts and cannot be imported: %s", entry.name, entry.value, error)
    for name in names:
        if name.endswith(".py") or Path(name).is_file():
            _import_file(Path(name))
        else:
            _import_module(name)
        if name not in _given:
            _given.append(name)


def announced() -> Sequence[EntryPoint]:
    """The entry points of installed packages that have parts."""
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _import_file(path: Path) -> None:
    whole = path.expanduser().resolve()
    if not whole.is_file():
        raise ValueError(f"--import {path}: there is no such file.")
    name = whole.stem
    known = sys.modules.get(name)
    if known is not None:
        if Path(getattr(known, "__file__", None) or "").resolve() != whole:
            raise ValueError(f"--import {path}: a module {name!r} is imported already, from elsewhere; give the file another name.")
        return
    if str(whole.parent) not in sys.path:
        sys.path.append(str(whole.parent))
    spec = importlib.util.spec_from_file_location(name, whole)
    if spec is None or spec.loader is None:
        raise ValueError(f"--import {path}: Python reads no such file as a module; its name must end with .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _import_module(name: str) -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # of the module's own imports
        raise ValueError(f"--import {name}: there is no module {error.name!r}, and no file of that name.") from error


def recorded(folder: Path) -> list[str]:
    """The imports that a run was given: of a run folder, or of an adapter's folder inside one; none where there is no record."""
    for config in (folder / "config.yaml", folder.parent.parent / "config.yaml"):
        if config.is_file():
            try:
                found = yaml.safe_load(config.read_text(encoding="utf-8"))
            except (yaml.YAMLError, ValueError):
                return []
            names = found.get("imports") if isinstance(found, dict) else None
            return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return []


@contextmanager
def naming_what_is_missing(folder: Path) -> Iterator[None]:
    """Add to a ValueError that the run of `folder` was trained with imports which this process was not given."""
    try:
        yield
    except ValueError as error:
        missing = [name for name in recorded(folder) if name not in _given]
        if not missing:
            raise
        flags = " ".join(f"--import {name}" for name in missing)
        raise ValueError(f"{error}\nIt was trained with {flags}: give that here too (in Python, import it first).") from error
