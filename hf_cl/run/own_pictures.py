"""A run on own pictures for which no config was named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hf_cl.errors import exists
from hf_cl.run.configs import config_names
from hf_cl.run.parse import parse_flags

CONFIG = "own_images"
NONE = "none"
"""`--config none`: the method's own defaults, which are those of its paper."""


def with_config(method: str, arguments: Sequence[str], say: Callable[[str], object]) -> list[str]:
    """The arguments, with the config `own_images` where the data set is a folder here and no config was named: a method's defaults are
    those of its paper's data set, and say nothing about somebody's photos. What was taken is said in a line."""
    flags = parse_flags(arguments)
    dataset = flags.get("dataset")
    if "config" in flags or not isinstance(dataset, str) or CONFIG not in config_names(method) or not exists(Path(dataset).expanduser()):
        return [*arguments]
    say(f"no --config: took --config {CONFIG}, made for own pictures; --config {NONE} takes the method's defaults.")
    return ["--config", CONFIG, *arguments]
