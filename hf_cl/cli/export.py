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
        str, typer.Option("--form", "--format", help="merged (full model), onnx, lora, or truncated (fewer dimensions)")
    ] = "merged",
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    base_model: Annotated[str | None, typer.Option("--base_model", "--base-model", help="the base, if not where the adapter says")] = None,
    domain: Annotated[str | None, typer.Option(help="the domain of all images, of an adapter that has norms for several")] = None,
    imports: Imports = None,
) -> None:
    """Write a merged model, ONNX or a stock LoRA adapter; it is loaded again and compared with the adapter."""
    from hf_cl.hub.export import export as write  # noqa: PLC0415
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        import_parts(imports or ())
        try:
            place = write(adapter, folder, form, revision=revision, base_model=base_model, domain=domain)
        except RuntimeError as error:  # the export is not the adapter: no mistake of the user's, and no traceback either
            raise mistake(str(error)) from error
    typer.echo(f"{form}: {place}")
