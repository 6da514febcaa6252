"""`hf-cl list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from types import ModuleType
from typing import Annotated

import typer

from hf_cl.cli.app import AsJson, app, print_json


class Kind(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    ADAPTERS = "adapters"
    HEADS = "heads"
    LOSSES = "losses"
    RULES = "rules"
    PROBES = "probes"
    SCENARIOS = "scenarios"
    METRICS = "metrics"


@app.command("list")
def list_(kind: Annotated[Kind | None, typer.Argument(help="what to list; all names by default")] = None, as_json: AsJson = False) -> None:
    """The parts there are, each with a sentence; without a kind, the names of all.

    Methods with their configs, adapter types with the bases they go on, heads, losses, gradient rules, probes, scenarios with their
    settings, metrics.
    """
    if kind is None:
        _print_names(as_json)
        return
    rows = LISTED[kind]()
    if as_json:
        print_json(rows)
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.padding import Padding  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(soft_wrap=False)
    for name, row in rows.items():
        console.print(Text(name, style="bold"))
        for key, value in row.items():
            said = ", ".join(value) if isinstance(value, list) else value
            console.print(Padding(Text(said if key == "description" else f"{key}: {said or '–'}"), (0, 0, 0, 4)))


def _print_names(as_json: bool) -> None:
    names = {str(kind): list(rows()) for kind, rows in LISTED.items()}
    if as_json:
        print_json(names)
        return
    for kind, known in names.items():
        typer.echo(f"{kind}: {', '.join(known)}")
    typer.echo("`hf-cl list KIND` says what each is.")


Rows = dict[str, dict[str, str | list[str]]]


def methods() -> Rows:
    """Every method that `hf-cl train` takes."""
    import logging  # noqa: PLC0415

    import hf_cl.methods  # noqa: PLC0415
    from hf_cl.run import config_names  # noqa: PLC0415

    rows: Rows = {}
    log = logging.getLogger("hf_cl")
    for name, settings in hf_cl.methods.METHODS.items():
        before = log.level
        log.setLevel(logging.ERROR)  # a method says what its settings leave out when it is made
        method = settings().method()
        log.setLevel(before)
        made_by = vars(hf_cl.methods).get(name, settings)  # a method from outside the package is known by its settings alone
        rows[name] = {
            "description": _first_sentence(made_by.__doc__),
            "adapter": method.adapter.peft_type.value,
            "configs": config_names(name),
        }
    return rows


def adapters() -> Rows:
    """Every peft type of hf_cl."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415

    from hf_cl.adapters.bases import SUPPORT, YES  # noqa: PLC0415

    return {
        name: {
            "description": _first_sentence(PEFT_TYPE_TO_CONFIG_MAPPING[name].__doc__),  # pyright: ignore[reportArgumentType]
            "bases": [family for family, reason in families.items() if reason == YES],
        }
        for name, families in SUPPORT.items()
    }


def heads() -> Rows:
    """Every head, by the `type` of the setting `head`."""
    import inspect  # noqa: PLC0415

    from hf_cl.heads import HEADS  # noqa: PLC0415

    given = ("in_features", "num_classes", "device", "dtype")
    rows: Rows = {
        name: {
            "description": _first_sentence(make.__doc__),
            "settings": [parameter for parameter in inspect.signature(make).parameters if parameter not in given],
        }
        for name, make in HEADS.items()
    }
    return rows | {"text": {"description": "The class names are the head: on models with an image and a text tower.", "settings": []}}


def losses() -> Rows:
    """Every loss term of `hf_cl.losses`."""
    import hf_cl.losses  # noqa: PLC0415
    from hf_cl.contracts import LossTerm  # noqa: PLC0415

    return _classes(hf_cl.losses, LossTerm)


def rules() -> Rows:
    """Every gradient rule of `hf_cl.rules`."""
    import hf_cl.rules  # noqa: PLC0415
    from hf_cl.contracts import GradientRule  # noqa: PLC0415

    return _classes(hf_cl.rules, GradientRule)


def probes() -> Rows:
    """Every probe of `hf_cl.probes`."""
    import hf_cl.probes  # noqa: PLC0415
    from hf_cl.contracts import Probe  # noqa: PLC0415

    return _classes(hf_cl.probes, Probe)


def _classes(room: ModuleType, base: type) -> Rows:
    """The public classes of a room that can be used as they are, by their names in Python."""
    import inspect  # noqa: PLC0415

    public = ((name, getattr(room, name)) for name in room.__all__)
    parts = {name: part for name, part in public if inspect.isclass(part) and issubclass(part, base)}
    leaves = {name: part for name, part in parts.items() if not any(part in other.__bases__ for other in parts.values())}
    return {name: {"description": _first_sentence(part.__doc__)} for name, part in leaves.items()}


def scenarios() -> Rows:
    """Every protocol, by the name that the setting `protocol` takes."""
    import inspect  # noqa: PLC0415

    from hf_cl.scenarios import SCENARIOS  # noqa: PLC0415

    return {
        name: {
            "description": _first_sentence(cut.__doc__),
            "settings": [parameter for parameter in inspect.signature(cut).parameters if parameter != "source"],
        }
        for name, cut in SCENARIOS.items()
    }


def metrics() -> Rows:
    """Every metric, by its name in results.json."""
    from hf_cl.metrics import METRICS  # noqa: PLC0415

    return {name: {"description": meaning} for name, meaning in METRICS.items()}


def _first_sentence(docstring: str | None) -> str:
    """The first paragraph on one line, up to its first full stop before a space and a capital letter."""
    import re  # noqa: PLC0415

    paragraph = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=[^.][a-z0-9)`]\.)\s+(?=[A-Z`])", paragraph)[0]


LISTED = {
    Kind.METHODS: methods,
    Kind.ADAPTERS: adapters,
    Kind.HEADS: heads,
    Kind.LOSSES: losses,
    Kind.RULES: rules,
    Kind.PROBES: probes,
    Kind.SCENARIOS: scenarios,
    Kind.METRICS: metrics,
}
