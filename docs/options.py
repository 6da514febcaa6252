"""Writes the tables of options and settings into the pages: python docs/options.py

A page marks the place: `<!-- options of OnePromptConfig -->` or `<!-- settings of ovor -->`, then `<!-- end -->`. The text is that of the
code: the help of a config's fields, the sentence under a setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import hf_cl.adapters
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.prefix_config import PrefixConfig
from hf_cl.adapters.weight_config import WeightConfig
from hf_cl.methods import METHODS
from hf_cl.run import setting_docs
from hf_cl.settings import RunSettings

PAGES = Path(__file__).parent
MARKED = re.compile(r"(<!-- (options|settings) of (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def options(name: str) -> str:
    """Fields of a config class beyond those that all share, which are `HeadedConfig`'s."""
    config = HeadedConfig if name == "HeadedConfig" else getattr(hf_cl.adapters, name)
    shared = () if config is HeadedConfig else (one for one in (PrefixConfig, WeightConfig) if issubclass(config, one))
    declared = (config, *shared)
    own = {field.name: field for one in declared for field in fields(config) if field.name in one.__annotations__}  # said anew: once
    return _table("option", ((field, field.metadata["help"]) for field in own.values()))


def settings(name: str) -> str:
    """Settings of a method beyond those of every run; of every run where the name is `RunSettings`."""
    if name == "RunSettings":
        return _table("setting", setting_docs(RunSettings).items())
    everyone = {field.name: field.default for field in fields(RunSettings)}
    mine = setting_docs(METHODS[name]).items()
    return _table("setting", ((field, text) for field, text in mine if everyone.get(field.name, ...) != field.default))


def _table(what: str, rows: Iterable[tuple[Field[Any], str]]) -> str:
    lines = [f"| {what} | default | meaning |", "|---|---|---|"]
    for field, text in rows:
        default = field.default if field.default_factory is MISSING else field.default_factory()
        escaped = re.sub(r"\s+", " ", text).replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{default}` | {escaped} |")
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """The page with every marked table as the code has it."""
    makers = {"options": options, "settings": settings}
    return MARKED.sub(lambda match: f"{match[1]}{makers[match[2]](match[3])}{match[4]}", page)


if __name__ == "__main__":
    for path in sorted(PAGES.rglob("*.md")):
        path.write_text(filled(path.read_text()))
