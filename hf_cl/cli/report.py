"""`hf-cl report`: the page of a run, written anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import LOOK, AsJson, Imports, app, mistakes_in_a_line, print_json


@app.command(rich_help_panel=LOOK)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders")],
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Write report.html of a run anew from what its folder holds: after an interruption, or with a newer hf_cl.

    One page that needs no network: accuracies, forgetting, confusions, examples, times, settings.
    """
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.results.report import write_report  # noqa: PLC0415
    from hf_cl.results.saved_run import read_run  # noqa: PLC0415

    pages = []
    with mistakes_in_a_line():
        import_parts(imports or ())
        for folder in runs:
            run = read_run(folder)
            pages.append(str(write_report(folder, run.results, run.settings, method=run.method)))
    if as_json:
        print_json(pages)
    else:
        typer.echo("\n".join(pages))
