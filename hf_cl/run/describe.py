"""The help text of a recipe, made from its settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import Field, fields
from itertools import pairwise
from typing import Any

import yaml

from hf_cl.images import AUGMENTATIONS
from hf_cl.run.configs import config_names
from hf_cl.run.parse import parse_settings
from hf_cl.scenarios import SCENARIOS
from hf_cl.settings import RunSettings

HELP = ("-h", "--help")


_REGISTRIES = {"A name of `hf_cl.images.AUGMENTATIONS`": AUGMENTATIONS, "A name of `hf_cl.scenarios.SCENARIOS`": SCENARIOS}
"""What the source refers to; whoever reads a help text wants the names."""


def describe(settings_class: type[RunSettings], method: str, arguments: Sequence[str] = (), program: str = "hf-cl train") -> str:
    """Help text of a recipe: every setting with its value and meaning, and the packaged configs.

    Args:
        settings_class, method: of the recipe.
        arguments: what else was typed; values are shown as they come out of it, so `--config demo` shows that config's.
        program: what stands before the method's configs in the usage line.

    Raises ValueError for arguments that `parse_settings` refuses.
    """
    values = parse_settings(settings_class, method, [argument for argument in arguments if argument not in HELP])
    configs = f"{{{','.join(config_names(method))}}}|FILE" if config_names(method) else "FILE"
    heading = "settings (YAML keys and flags alike), with the values of this command line in brackets:"
    lines = [f"usage: {program} --config {configs} [--key value ...]", "", heading]
    for setting, text in setting_docs(settings_class).items():
        for reference, names in _REGISTRIES.items():
            text = text.replace(reference, f"One of {', '.join(names)}")  # noqa: PLW2901
        lines.append(f"  --{setting.name:<28} {text}  [{_typed(getattr(values, setting.name))}]")
    return "\n".join(lines)


def setting_docs(settings_class: type[RunSettings]) -> dict[Field[Any], str]:
    """Every setting with the sentence that stands under it in the source."""
    docs: dict[str, str] = {}
    for cls in reversed(settings_class.__mro__[:-1]):
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # pyright: ignore[reportAttributeAccessIssue]
        for statement, following in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                docs[statement.target.id] = " ".join(str(following.value.value).split())  # pyright: ignore[reportAttributeAccessIssue]
    return {setting: docs.get(setting.name, "") for setting in fields(settings_class)}


def _typed(value: Any) -> str:
    """A value as a flag takes it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()
    return f"'{text}'" if isinstance(value, (dict, list)) and value else text
