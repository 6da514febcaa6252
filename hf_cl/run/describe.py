"""The help text of a recipe, made from its settings."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from io import StringIO
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_cl.run.configs import config_names
from hf_cl.run.early import NAMES, names_for
from hf_cl.run.parse import SPELLED, parse_settings
from hf_cl.settings import RunSettings

HELP = ("-h", "--help")
_NARROW = 100
"""Columns below which a setting's meaning stands under its flag instead of beside it."""

GROUPS: dict[str, tuple[str, ...]] = {
    "What is set first": ("dataset", "backbone", "output_dir", "epochs", "num_base_classes", "classes_per_session", "seed"),
    "The method": (),
    "Training": (
        *("batch_size", "eval_batch_size", "gradient_accumulation_steps", "augmentation", "mixed_precision", "gradient_checkpointing"),
        *("compile", "cpu", "num_workers", "backbone_revision", "normalize"),
    ),
    "Data and sessions": (
        *("protocol", "protocol_options", "class_order", "class_order_seed", "shots", "index_list", "targets", "validation_fraction"),
        *("image_column", "label_column", "domain_column", "test_split", "skip_bad_images", "exclude"),
        *("test_on", "max_sessions"),
    ),
    "Resume, log and parts of your own": (
        *("resume", "checkpoint_steps", "checkpoint_minutes", "logging_steps", "report_to", "marks", "stability_every", "probes"),
        "imports",
    ),
    "Hub": ("push_to_hub", "private", "license"),
}
"""Heading -> settings under it. A method's own stand under "The method"; what is of every run and in no group joins "Training"."""


def describe(
    settings_class: type[RunSettings], method: str, arguments: Sequence[str] = (), program: str = "hf-cl train", width: int = 200
) -> str:
    """Help text of a recipe: every setting with its type, value and meaning, in groups, and the packaged configs.

    Args:
        settings_class, method: of the recipe.
        arguments: what else was typed; values are shown as they come out of it, so `--config demo` shows that config's.
        program: what stands before the method's configs in the usage line.
        width: columns of the text.

    Raises ValueError for arguments that `parse_settings` refuses.
    """
    text = StringIO()
    _print(Console(file=text, width=width, color_system=None), settings_class, method, arguments, program)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def print_help(settings_class: type[RunSettings], method: str, arguments: Sequence[str], program: str) -> None:
    """`describe` on standard output, wrapped and coloured as the terminal has it."""
    _print(Console(), settings_class, method, arguments, program)


def _print(console: Console, settings_class: type[RunSettings], method: str, arguments: Sequence[str], program: str) -> None:
    values = parse_settings(settings_class, method, [argument for argument in arguments if argument not in HELP])
    configs = f"{{{','.join(config_names(method))}}}|FILE" if config_names(method) else "FILE"
    console.print(Text(f"usage: {program} --config {configs} [--key value ...]"))
    console.print()
    console.print(Text("Settings are YAML keys and flags alike; in brackets the values of this command line."))
    docs, types = setting_docs(settings_class), _types(settings_class)
    for heading, settings in _grouped(settings_class).items():
        if not settings:
            continue
        console.print()
        console.print(Text(heading, style="bold"))
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column()
        for setting in settings:
            flag = Text(f"  --{_spelled(setting.name)}", style="cyan").append(f" {types[setting.name]}".rstrip(), style="dim")
            meaning = Text(_named(setting.name, docs[setting])).append(f"  [{_typed(getattr(values, setting.name))}]", style="dim")
            if console.width < _NARROW:
                console.print(flag)
                console.print(_indented(meaning))
            else:
                table.add_row(flag, meaning)
        if console.width >= _NARROW:
            console.print(table)


def _indented(text: Text) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=0)
    table.add_column(width=6)
    table.add_column()
    table.add_row("", text)
    return table


def _grouped(settings_class: type[RunSettings]) -> Mapping[str, list[Field[Any]]]:
    """The settings under their headings."""
    of_every_run = {setting.name for setting in fields(RunSettings)}
    homes = {name: heading for heading, names in GROUPS.items() for name in names}
    found: dict[str, list[Field[Any]]] = {heading: [] for heading in GROUPS}
    for setting in fields(settings_class):
        found[homes.get(setting.name, "Training" if setting.name in of_every_run else "The method")].append(setting)
    for heading, names in GROUPS.items():
        found[heading].sort(key=lambda setting, names=names: names.index(setting.name) if setting.name in names else len(names))
    return found


def _spelled(name: str) -> str:
    return next((flag for flag, setting in SPELLED.items() if setting == name), name)


def _named(name: str, text: str) -> str:
    """What the source refers to in full: whoever reads a help text wants the names."""
    if name not in NAMES:
        return text
    return re.sub(r"A name of `hf_cl\.[\w.]+`", f"One of {', '.join(names_for(name))}", text)


def _types(settings_class: type[RunSettings]) -> dict[str, str]:
    """What a flag takes, in a word: its choices where there are any."""
    words = {int: "INT", float: "NUMBER", str: "TEXT", bool: ""}
    types = {}
    for name, hint in get_type_hints(settings_class).items():
        kinds = [kind for kind in (get_args(hint) if type(None) in get_args(hint) else (hint,)) if kind is not type(None)]
        kind = kinds[0]
        choices = [str(choice) for choice in get_args(kind) if isinstance(choice, str)]
        plain = words.get(kind)
        types[name] = "|".join(choices) or (plain if plain is not None else "A,B,..." if "list" in str(kind) else "TYPE|{...}")
    return types


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
