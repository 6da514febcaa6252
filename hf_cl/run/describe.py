"""The help text of a recipe, made from its settings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import MISSING, Field, fields
from itertools import pairwise
from typing import Any

from hf_cl.run.configs import config_names
from hf_cl.training import RunSettings


def describe(settings_class: type[RunSettings], method: str) -> str:
    """Help text of a recipe: every setting with its default and meaning, and the packaged configs."""
    lines = [f"usage: --config {{{','.join(config_names(method))}}}|FILE [--key value ...]", "", "settings (YAML keys and flags alike):"]
    for setting, text in setting_docs(settings_class).items():
        lines.append(f"  --{setting.name:<28} {text}  [{_default(setting)}]")
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


def _default(setting: Field[Any]) -> Any:
    return setting.default if setting.default_factory is MISSING else setting.default_factory()
