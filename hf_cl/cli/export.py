"""`hf-cl export`: an adapter for those who do without hf_cl."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import SHARE, Imports, app, mistake, mistakes_in_a_line


@app.command(rich_help_panel=SHARE)
def export(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, or run folder (its last session)")],
    folder: Annotated[Path, typer.Argument(help="a new folder")],
    form: Annotated[
        str, typer.Option("--form", "--format", help="merged (full model), onnx, lora, truncated (fewer dimensions), or small (fewer bits)")
    ] = "merged",
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    base_model: Annotated[str | None, typer.Option("--base_model", "--base-model", help="the base, if not where the adapter says")] = None,
    bits: Annotated[int | None, typer.Option(help="small: bits of a value, 2, 3, 4 or 8 (default)")] = None,
    max_bytes: Annotated[
        str | None, typer.Option("--max_bytes", "--max-bytes", help="small: size that the file may have, e.g. 500kB, in the place of bits")
    ] = None,
    skip_blocks: Annotated[
        str | None,
        typer.Option(
            "--skip_blocks", "--skip-blocks", help="merged: blocks of the tower to leave out, e.g. 3,4, or auto for what --keep allows"
        ),
    ] = None,
    keep: Annotated[
        float | None,
        typer.Option(help="small, skip_blocks: least share of predictions that must stay the same (0.995, 0.99)"),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="small, skip_blocks: whose training pictures to compare predictions on; the run's own by default")
    ] = None,
    domain: Annotated[str | None, typer.Option(help="the domain of all images, of an adapter that has norms for several")] = None,
    imports: Imports = None,
) -> None:
    """Write a merged model, ONNX, a stock LoRA adapter or a small one; it is loaded again and compared with the adapter."""
    from hf_cl.byte_sizes import byte_size  # noqa: PLC0415
    from hf_cl.hub.agreement import MOST  # noqa: PLC0415
    from hf_cl.hub.export import export as write  # noqa: PLC0415
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415
    from hf_cl.run.some_pictures import some_pictures  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        import_parts(imports or ())
        compares = form == "small" or skip_blocks is not None or dataset is not None
        wishes = {
            "tell": typer.echo,
            "bits": bits,
            "keep": keep,
            "pictures": some_pictures(adapter, dataset, MOST) if compares else None,
            "max_bytes": None if max_bytes is None else byte_size(max_bytes),
            "skip_blocks": None if skip_blocks is None else _blocks(skip_blocks),
        }
        try:
            place = write(adapter, folder, form, revision=revision, base_model=base_model, domain=domain, **wishes)
        except RuntimeError as error:  # the export is not the adapter: no mistake of the user's, and no traceback either
            raise mistake(str(error)) from error
    typer.echo(f"{form}: {place}")


def _blocks(text: str) -> str | list[int]:
    if text == "auto":
        return text
    if not all(part.strip().isdecimal() for part in text.split(",")):
        raise ValueError(f"--skip_blocks is auto or positions such as 3,4, not {text!r}.")
    return [int(part) for part in text.split(",")]
