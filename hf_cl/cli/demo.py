"""`hf-cl demo`: the whole way in two minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import TRAIN, app


@app.command(rich_help_panel=TRAIN)
def demo(output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", help="the run folder")] = Path("runs/demo")) -> None:
    """Five sessions of real images with one small adapter, then its reload in a fresh process. No network."""
    from hf_cl.demo import run_demo  # noqa: PLC0415

    run_demo(output_dir)
