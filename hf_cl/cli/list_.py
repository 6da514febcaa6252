"""`hf-cl list`: what there is to choose from."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from hf_cl.cli.app import AsJson, app, print_json


class Kind(StrEnum):
    """What can be listed."""

    METHODS = "methods"
    ADAPTERS = "adapters"
    SCENARIOS = "scenarios"
    METRICS = "metrics"


@app.command("list")
def list_(kind: Annotated[Kind, typer.Argument(help="what to list")], as_json: AsJson = False) -> None:
    """Methods with their configs, adapter types with the bases they go on, scenarios with their settings, metrics with their meaning."""
    rows = {Kind.METHODS: methods, Kind.ADAPTERS: adapters, Kind.SCENARIOS: scenarios, Kind.METRICS: metrics}[kind]()
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
        described = _first_sentence(getattr(hf_cl.methods, name).__doc__)
        rows[name] = {"description": described, "adapter": method.adapter.peft_type.value, "configs": config_names(name)}
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
