"""`hf-cl push`: a run onto the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_cl.cli.app import SHARE, app, early_mistake, mistakes_in_a_line


@app.command(rich_help_panel=SHARE)
def push(
    run: Annotated[Path, typer.Argument(help="run folder, finished or not")],
    repo: Annotated[str, typer.Argument(help="owner/name on the Hub; made if it does not exist")],
    private: Annotated[bool, typer.Option("--private", help="make the repository private")] = False,
    base_model: Annotated[
        str | None, typer.Option("--base_model", "--base-model", help="name of the base on the Hub, where the run used a local folder")
    ] = None,
) -> None:
    """Publish a run: one revision per session, results, plots and card. Run it again to go on, or to add sessions."""
    from huggingface_hub import is_offline_mode  # noqa: PLC0415
    from huggingface_hub.utils import logging  # noqa: PLC0415

    from hf_cl.errors import near_path  # noqa: PLC0415
    from hf_cl.hub.access import check_name, check_token  # noqa: PLC0415

    faults = [] if run.is_dir() else [f"There is no run folder {str(run)!r}.{near_path(run)}"]
    checks = (check_name,) if is_offline_mode() else (check_name, check_token)  # offline is what stands in the way, and the push says so
    for check in checks:
        try:
            check(repo)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise early_mistake("\n".join(faults))

    from hf_cl.hub.push import push_to_hub  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    logging.set_verbosity_error()  # it says of each session whose files are there that there is nothing to commit
    with mistakes_in_a_line():
        pushed = push_to_hub(run, repo, private=private, base_model=base_model, say=typer.echo)
    for remark in pushed.remarks:
        typer.echo(remark)
    typer.echo(f"{pushed.url}: {len(pushed.new)} sessions pushed, {len(pushed.present)} were there")
