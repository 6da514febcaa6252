"""`hf-cl predict`: names for images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import AsJson, app, mistakes_in_a_line, print_json


@app.command()
def predict(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, or run folder (its last session)")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    top_k: Annotated[int, typer.Option("--top_k", "--top-k", min=1, help="classes per image")] = 3,
    as_json: AsJson = False,
) -> None:
    """Name what is in images."""
    from hf_cl.hub.load import load  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415
    from hf_cl.training.display import display_name, printable  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        predictions = load(adapter, revision=revision).predict(images, top_k=top_k)
    if as_json:
        print_json({str(image): {p.name: p.score for p in best} for image, best in zip(images, predictions, strict=True)})
        return
    for image, best in zip(images, predictions, strict=True):
        typer.echo(f"{printable(str(image))}: " + ", ".join(f"{display_name(p.name)} {100 * p.score:.1f} %" for p in best))
