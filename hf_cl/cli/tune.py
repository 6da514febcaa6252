"""`hf-cl tune`: settings chosen on validation images of the first sessions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hf_cl.cli.app import TRAIN, app, mistake, mistakes_in_a_line

if TYPE_CHECKING:
    from hf_cl.tuning.choice import Candidate
    from hf_cl.tuning.tune import Asked


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    options_metavar="METHOD [OPTIONS] [FLAGS OF hf-cl train]",
    rich_help_panel=TRAIN,
)
def tune(context: typer.Context) -> None:
    """Choose settings without looking at a test image: `hf-cl tune lora --config own_images --dataset ./my_photos --budget 16`.

    METHOD and every flag that is none of these are those of `hf-cl train`. They describe the base, which is a candidate too.

    - `--over NAME ...`: what is searched (learning_rate weight_decay). A name has a range of its own, or is given one: NAME=LOW:HIGH,
      NAME=LOW:HIGH:log, NAME=a,b,c. Several values or flags; a key of a dict is head.shrinkage.
    - `--budget N`: full-length runs that may be paid for, the base's among them (16).
    - `--sessions N`: the first sessions, the only ones that are opened (2).
    - `--validation_fraction F`: of their training images, kept out to measure on (0.2).
    - `--objective NAME`: final_accuracy (default) or average_incremental_accuracy.
    - `--seeds N`: runs of a candidate in full, whose mean counts (1).
    - `--jobs N`: candidates at a time (1); `--where local` or `ray`, with `--option KEY=VALUE`.
    - `--search_seed N`: of the points (0).
    - `--output_dir DIR`: the search's folder (runs/tune).

    The same command goes on where it was stopped, also beside another process. Then `hf-cl train METHOD --config DIR/best.yaml`.
    """
    from hf_cl.errors import CandidateFailedError  # noqa: PLC0415
    from hf_cl.tuning.tune import asked_for, search_for  # noqa: PLC0415

    with mistakes_in_a_line():
        asked = asked_for(context.args)
        typer.echo(asked.announcement())
        try:
            outcome = search_for(asked, say=Progress(asked))
        except CandidateFailedError as error:
            raise mistake(str(error)) from error
    if outcome is None:
        typer.echo("What is left runs in other processes; the same command shows the outcome when they have ended.")
        raise typer.Exit(0)
    folder: Path = asked.folder
    typer.echo(f"\n{outcome.verdict}")
    typer.echo(f"Candidates: {folder / 'tune.html'}")
    typer.echo(f"Next: hf-cl train {asked.method} --config {folder / 'best.yaml'} --output_dir runs/final")


class Progress:
    """Says how far a search is, and how long it may still take by what this process has done of it."""

    def __init__(self, asked: Asked) -> None:
        self.plan, self.began, self.before = asked.plan, time.monotonic(), None

    def __call__(self, candidates: list[Candidate]) -> None:
        spent = self.plan.spent(candidates)
        full = [one.full.worth for one in candidates if one.full is not None]
        best = 100 * max(full, default=0.0)
        if self.before is None:  # the first call comes when the base is there
            self.before = 0.0 if len(candidates) == 1 else spent
        done = spent - self.before
        left = (time.monotonic() - self.began) / done * (self.plan.budget - spent) / 60 if done else None
        to_go = "" if left is None else f"; up to {left:.0f} min to go"
        paid = f"{spent:g} of {self.plan.budget:g} runs spent"
        typer.echo(f"{len(candidates)} points, {len(full)} in full; {paid}; best {best:.1f} % on validation images{to_go}")
