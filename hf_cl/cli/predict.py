"""`hf-cl predict`: names for images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_cl.cli.app import USE, AsJson, Imports, app, early_mistake, mistake, mistakes_in_a_line, print_json

if TYPE_CHECKING:
    from hf_cl.hub.load import Classifier, Prediction

_AT_ONCE = 32


@app.command(rich_help_panel=USE)
def predict(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, or run folder (its last session)")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    top_k: Annotated[int, typer.Option("--top_k", "--top-k", min=1, help="classes per image")] = 3,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Name what is in images. Files that are no images are named at the end; the others are answered all the same."""
    missing = [f"There is no file {str(image)!r}." for image in images if not os.path.exists(image)]  # noqa: PTH110 (False for what can be no path)
    if len(missing) == len(images):
        raise early_mistake("\n".join(missing))
    from hf_cl.hub.load import load  # noqa: PLC0415
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.results.display import display_name, printable  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        import_parts(imports or ())
        named, bad = _named(load(adapter, revision=revision), images, top_k)
    if as_json:
        print_json({image: {p.name: p.score for p in best} for image, best in named.items()})
    else:
        for image, best in named.items():
            typer.echo(f"{printable(image)}: " + ", ".join(f"{display_name(p.name)} {100 * p.score:.1f} %" for p in best))
    if bad:
        raise mistake("\n".join(bad))


def _named(classifier: Classifier, images: Sequence[Path], top_k: int) -> tuple[dict[str, list[Prediction]], list[str]]:
    """The predictions by file, and a sentence for every file that is no image. As many are open at once as go through the model."""
    from hf_cl.pictures import open_image  # noqa: PLC0415

    named: dict[str, list[Prediction]] = {}
    bad = []
    for start in range(0, len(images), _AT_ONCE):
        opened = {}
        for image in images[start : start + _AT_ONCE]:
            try:
                opened[str(image)] = open_image(image)
            except ValueError as error:
                bad.append(str(error))
        if opened:
            named |= zip(opened, classifier.predict(list(opened.values()), top_k=top_k), strict=True)
    return named, bad
