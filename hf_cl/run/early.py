"""What a mistyped command is told within a second: settings, configs, methods and data sets that are not there, before anything heavy.

Methods are read from their files (`hf_cl.run.source`), those of `--import`ed files too; where a file cannot be read so, nothing is said
early and everything later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_cl.errors import exists, no_such_dataset
from hf_cl.hints import nearest, refuse
from hf_cl.run.source import PACKAGE, NotReadableError, keys_of, module_path, read
from hf_cl.settings import RunSettings

_METHODS = PACKAGE / "methods" / "__init__.py"


def method_names(imports: Sequence[str] = ()) -> list[str]:
    """The methods of the package, and those that files to be imported register."""
    return [*dict.fromkeys(name for path in _files(imports) for name in keys_of(path, "METHODS"))]


def settings_class(method: str, imports: Sequence[str] = ()) -> type[RunSettings] | None:
    """The settings of a method as its file says them; None for a method that no file registers, or whose settings cannot be read so."""
    for path in reversed([*_files(imports)]):
        name = keys_of(path, "METHODS").get(method)
        if name is not None:
            try:
                found: Any = getattr(read(path, name), name)
            except NotReadableError:
                return None
            return found
    return None


def _files(imports: Sequence[str]) -> Iterator[Path]:
    """The files that register methods. Raises NotReadableError for an import that has no source file."""
    yield _METHODS
    for name in imports:
        path = Path(name).expanduser().resolve() if name.endswith(".py") else module_path(name)
        if path is None or not path.is_file():
            raise NotReadableError(name)
        yield path


NAMES = {"protocol": ("scenarios/__init__.py", "SCENARIOS"), "augmentation": ("images/augment.py", "AUGMENTATIONS")}
"""Setting -> the file and the dictionary of the names it takes."""


def names_for(setting: str) -> list[str]:
    """The names that a setting takes, of `NAMES`."""
    file, registry = NAMES[setting]
    return [*keys_of(PACKAGE / file, registry)]


def check_names(settings: RunSettings) -> None:
    """Raise ValueError with every name among the settings that nothing can have: data sets that are neither here nor on the Hub, protocols
    and augmentations. Where parts are imported, only the data sets: the others may be in them."""
    faults = [fault for dataset in (settings.dataset, *settings.targets) if (fault := missing_dataset(dataset))]
    if not settings.imports:
        for setting in NAMES:
            known, value = names_for(setting), getattr(settings, setting)
            if value not in known:
                faults.append(f"Unknown {setting} {value!r}.{nearest(value, known)} Known: {', '.join(known)}.")
    refuse(faults)


def missing_dataset(dataset: str) -> str | None:
    """Why there can be no such data set, or None where there may be one."""
    if dataset == "digits" or not dataset or exists(Path(dataset).expanduser()):
        return None
    address = read(PACKAGE / "scenarios" / "hub.py", "HubAddress").HubAddress
    return None if address.parse(dataset) else no_such_dataset(dataset)
