"""`hf-cl list`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Annotated, Any

import typer

from hf_cl.cli.app import LOOK, AsJson, Imports, app, mistakes_in_a_line, print_json


class Kind(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    ADAPTERS = "adapters"
    HEADS = "heads"
    LOSSES = "losses"
    RULES = "rules"
    PARTS = "parts"
    MEMORIES = "memories"
    PROBES = "probes"
    SCENARIOS = "scenarios"
    METRICS = "metrics"


@app.command("list", rich_help_panel=LOOK)
def list_(
    kind: Annotated[Kind | None, typer.Argument(help="what to list in full; everything in a line each by default")] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """The parts there are, each with a sentence; with a kind, also what each takes.

    Methods with their configs, adapter types with the bases they go on, heads, losses, gradient rules, parts, memories, probes and
    scenarios with their settings, metrics.
    """
    from hf_cl.own_parts import import_parts  # noqa: PLC0415

    with mistakes_in_a_line():
        import_parts(imports or ())
    if kind is None:
        _print_all(as_json)
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


def _print_all(as_json: bool) -> None:
    if as_json:
        print_json({str(kind): list(rows()) for kind, rows in LISTED.items()})
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console()
    for kind, rows in LISTED.items():
        table = Table(box=None, show_header=False, pad_edge=False, title=str(kind), title_justify="left", title_style="bold")
        table.add_column(no_wrap=True, overflow="fold")
        table.add_column()
        for name, row in rows().items():
            table.add_row(f"  {name}", Text(str(row["description"])))
        console.print(table)
    typer.echo("`hf-cl list KIND` adds settings, bases and configs.")


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
    """Every adapter, by the `type` of the setting `adapter` of `compose`, with its type in peft and the bases it goes on."""
    from hf_cl.adapters import ADAPTERS, GIVEN  # noqa: PLC0415
    from hf_cl.adapters.bases import SUPPORT, YES  # noqa: PLC0415

    rows = _registered(ADAPTERS, GIVEN)
    for name, row in rows.items():
        kind = ADAPTERS[name]().peft_type.value  # pyright: ignore[reportAttributeAccessIssue]
        row.pop("settings")  # some are peft's dozens; the page of each adapter has them
        row["peft type"] = kind
        row["bases"] = [family for family, reason in SUPPORT.get(kind, {}).items() if reason == YES]
    return rows


def heads() -> Rows:
    """Every head, by the `type` of the setting `head`."""
    from hf_cl.heads import GIVEN, HEADS  # noqa: PLC0415

    rows = _registered(HEADS, GIVEN)
    return rows | {"text": {"description": "The class names are the head: on models with an image and a text tower.", "settings": []}}


def losses() -> Rows:
    """Every loss term, by its name in `main` and `losses` of `compose`."""
    from hf_cl.losses import LOSSES  # noqa: PLC0415

    return _registered(LOSSES)


def rules() -> Rows:
    """Every gradient rule, by the `type` of the setting `rule` of `compose`."""
    from hf_cl.rules import RULES  # noqa: PLC0415

    return _registered(RULES)


def parts() -> Rows:
    """Every further part, by its name in `parts` of `compose`."""
    from hf_cl.parts import PARTS  # noqa: PLC0415

    return _registered(PARTS)


def memories() -> Rows:
    """Every memory of images, by the `type` of the setting `memory`."""
    from hf_cl.memory import GIVEN, MEMORIES  # noqa: PLC0415

    return _registered(MEMORIES, GIVEN)


def probes() -> Rows:
    """Every probe, by its name in the setting `probes`."""
    from hf_cl.probes import PROBES  # noqa: PLC0415

    return _registered(PROBES)


def scenarios() -> Rows:
    """Every protocol, by the name that the setting `protocol` takes."""
    from hf_cl.scenarios import SCENARIOS  # noqa: PLC0415

    return _registered(SCENARIOS, ("source",))


def _registered(registry: Mapping[str, Callable[..., Any]], given: Collection[str] = ()) -> Rows:
    """What a registry holds: the sentence of each entry, and the settings that its spec takes."""
    import inspect  # noqa: PLC0415

    return {
        name: {
            "description": _first_sentence(make.__doc__),
            "settings": [parameter for parameter in inspect.signature(make).parameters if parameter not in given],
        }
        for name, make in registry.items()
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
    Kind.PARTS: parts,
    Kind.MEMORIES: memories,
    Kind.PROBES: probes,
    Kind.SCENARIOS: scenarios,
    Kind.METRICS: metrics,
}
