"""What a shell completes with <TAB>: methods, their settings, and the values of some. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_args, get_type_hints

from typer.core import TyperCommand

BACKBONES = ("demo", "demo_clip", "google/vit-base-patch16-224", "google/vit-base-patch16-224-in21k", "openai/clip-vit-base-patch16")
"""Those that the packaged configs name."""
_TYPED = {
    "head": ("heads/__init__.py", "HEADS"),
    "adapter": ("adapters/__init__.py", "ADAPTERS"),
    "main": ("losses/__init__.py", "LOSSES"),
    "losses": ("losses/__init__.py", "LOSSES"),
    "rule": ("rules/__init__.py", "RULES"),
    "parts": ("parts/__init__.py", "PARTS"),
    "memory": ("memory/__init__.py", "MEMORIES"),
    "probes": ("probes/__init__.py", "PROBES"),
}
"""Setting -> the file and the dictionary of the names that it takes."""


def complete_methods(incomplete: str) -> list[str]:
    """Methods of the package."""
    from hf_cl.run.early import method_names  # noqa: PLC0415

    return [name for name in method_names() if name.startswith(incomplete)]


@dataclass
class Completion:
    """A word to offer, as click has it. typer brings click along under a private name, or not, as its version goes."""

    value: str
    type: str = "plain"
    help: str | None = None


class TrainCommand(TyperCommand):
    """`hf-cl train`: its flags are the settings of the method that was typed, which the parser does not know."""

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Settings of the method, or values of the setting before the cursor."""
        method, typed = ctx.params.get("method"), ctx.args
        if method is None:
            return super().shell_complete(ctx, incomplete)
        if not incomplete.startswith("-") and typed and typed[-1].startswith("--"):
            known: Iterable[str] = _values(method, typed[-1][2:].replace("-", "_"))
        else:
            known = _flags(method)
        return [Completion(word) for word in known if word.startswith(incomplete)]


def _flags(method: str) -> Iterator[str]:
    from hf_cl.run.early import settings_class  # noqa: PLC0415

    found = settings_class(method)
    if found is not None:
        yield "--config"
        yield "--import"
        yield from (f"--{setting.name}" for setting in fields(found) if setting.name != "imports")


def _values(method: str, setting: str) -> Sequence[str]:
    from hf_cl.run.configs import config_names  # noqa: PLC0415
    from hf_cl.run.early import NAMES, names_for, settings_class  # noqa: PLC0415
    from hf_cl.run.source import PACKAGE, keys_of  # noqa: PLC0415

    if setting == "config":
        return [*config_names(method), "none"]
    if setting == "backbone":
        return BACKBONES
    if setting in NAMES:
        return names_for(setting)
    found = settings_class(method)
    hints = get_type_hints(found) if found is not None else {}
    hint = hints.get(setting)
    choices = [choice for kind in (hint, *get_args(hint)) for choice in get_args(kind) if isinstance(choice, str)]
    if choices or setting not in _TYPED:
        return choices
    file, registry = _TYPED[setting]
    return [*keys_of(PACKAGE / file, registry)]
