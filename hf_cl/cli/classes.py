"""`hf-cl classes`: rename, merge and drop classes of a trained adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import SHARE, app, mistakes_in_a_line

Several = list[str] | None


@app.command(rich_help_panel=SHARE)
def classes(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, or run folder (its last session)")],
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", help="a new folder for the adapter")],
    rename: Annotated[Several, typer.Option(metavar="OLD=NEW", help="call a class something else; repeatable")] = None,
    merge: Annotated[Several, typer.Option(metavar="A,B=NEW", help="make one class of several; repeatable")] = None,
    drop: Annotated[Several, typer.Option(metavar="NAME", help="take a class out; repeatable")] = None,
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
) -> None:
    """Rename, merge and drop classes of a trained adapter, without training: writes another adapter with a card that says so."""
    from hf_cl.hub.classes import change_classes  # noqa: PLC0415

    with mistakes_in_a_line():
        merged = {new: tuple(parts.split(",")) for parts, new in _pairs(merge, "--merge", "A,B=NEW")}
        renamed = dict(_pairs(rename, "--rename", "OLD=NEW"))
        made = change_classes(adapter, output_dir, rename=renamed, merge=merged, drop=drop or (), revision=revision)
    typer.echo(f"{len(made)} classes: {output_dir}")


def _pairs(given: Several, option: str, form: str) -> list[tuple[str, str]]:
    pairs = [text.rpartition("=") for text in given or ()]
    if wrong := [text for text, (old, _, new) in zip(given or (), pairs, strict=True) if not old or not new]:
        raise ValueError(f"{option} takes {form}, got {wrong[0]!r}.")
    return [(old, new) for old, _, new in pairs]
