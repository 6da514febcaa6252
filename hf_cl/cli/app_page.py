"""`hf-cl app`: try an adapter on a page."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import USE, Imports, app, mistake, mistakes_in_a_line


@app.command("app", rich_help_panel=USE)
def app_page(
    adapter: Annotated[str, typer.Argument(metavar="RUN", help="run folder, adapter folder, or Hub id")],
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="default: the first free one from 7860 on")] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="open the page in a browser")] = True,
    imports: Imports = None,
) -> None:
    """A page to try an adapter, and to teach it: drop pictures, see names and scores, and what an earlier session would have said.

    Of a run it shows the classes too, and pictures of a new or known class become its next session (`--resume auto`).

    Served to this machine alone, until Ctrl-C. Needs gradio: pip install '.[app]' in the clone of hf_cl.
    """
    if find_spec("gradio") is None:
        raise mistake("hf-cl app needs gradio, which is not installed: pip install '.[app]' in the clone of hf_cl")
    with mistakes_in_a_line():
        from hf_cl.app.page import build_page, serve  # noqa: PLC0415
        from hf_cl.own_parts import import_parts  # noqa: PLC0415
        from hf_cl.run import quiet_libraries  # noqa: PLC0415

        quiet_libraries()
        import_parts(imports or ())
        page = build_page(adapter, _title(adapter))
        serve(page, port=port, open_browser=browser, say=lambda address: typer.echo(f"{address} (Ctrl-C ends it)"))


def _title(adapter: str) -> str:
    """Method and data set where the run says so, else the name of the adapter."""
    if (Path(adapter) / "results.json").is_file():
        from hf_cl.results.saved_run import read_run  # noqa: PLC0415

        run = read_run(adapter)
        return f"{run.method} on {run.results.protocol.dataset}"
    return Path(adapter).name
