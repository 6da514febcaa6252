"""`hf-cl tune`: settings chosen on validation images of the first sessions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hf_cl.cli.app import TRAIN, app, mistakes_in_a_line

if TYPE_CHECKING:
    from hf_cl.tuning.choice import Candidate
    from hf_cl.tuning.tune import Asked


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, rich_help_panel=TRAIN)
def tune(context: typer.Context) -> None:
    """Choose settings without looking at a test image: `hf-cl tune lora --config own_images --dataset ./my_photos --budget 16`.

    --over NAME, NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=a,b,c: what is searched, several values or flags; a key of a dict is
    head.shrinkage. --budget: full-length runs that may be paid for. --sessions: the first sessions, the only ones that are used.
    --validation_fraction: of their training images, kept out to measure on. --objective final_accuracy or average_incremental_accuracy.
    --seeds: runs of a candidate in full. --jobs: candidates at a time; --where local or ray. Other flags are those of `hf-cl train`, the
    base. The same command goes on, also beside another process.
    """
    from hf_cl.tuning.tune import asked_for, search_for  # noqa: PLC0415

    with mistakes_in_a_line():
        asked = asked_for(context.args)
        typer.echo(asked.announcement())
        outcome = search_for(asked, say=Progress(asked))
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
