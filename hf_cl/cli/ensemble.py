"""`hf-cl ensemble`: several runs as one classifier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_cl.cli.app import TRAIN, AsJson, app, early_mistake, print_json

if TYPE_CHECKING:
    from hf_cl.results.results import Results
    from hf_cl.run.ensemble import Members


@app.command(rich_help_panel=TRAIN)
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="run folders of one stream on one backbone, such as several seeds")],
    output_dir: Annotated[Path, typer.Option("--output_dir", "--output-dir", help="the folder of what is made of them")],
    average: Annotated[
        Literal["probability", "log", "delta"],
        typer.Option(help="the mean of probabilities, or of their logarithms; delta: one LoRA, the mean of the members' changes"),
    ] = "probability",
    distill: Annotated[bool, typer.Option("--distill", help="train one adapter from what the runs say, by the first one's method")] = False,
    temperature: Annotated[float, typer.Option(help="of the distillation: how soft the probabilities are that it learns")] = 2.0,
    hard_labels: Annotated[
        float, typer.Option("--hard_labels", "--hard-labels", help="weight of the cross-entropy on labels beside the distillation")
    ] = 0.0,
    images: Annotated[
        str | None,
        typer.Option(metavar="DATASET", help="pictures to distill on too, without labels: a folder, a table or a Hub id, with --distill"),
    ] = None,
    student: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="a setting of the student's instead of the first run's; repeatable")
    ] = None,
    resume: Annotated[Literal["auto"] | None, typer.Option(help="auto: go on with a distillation that was stopped")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="stay on the CPU although there is a GPU")] = False,
    as_json: AsJson = False,
) -> None:
    """The average of several runs, measured after every session: results.json and a report beside those of its members.

    The members' adapters sit on one backbone in memory; each costs a forward. `hf-cl compare RUN... OUTPUT_DIR` sets all side by side.
    With --distill one adapter learns from them all, in an ordinary run folder that predicts and pushes like any other.
    """
    from hf_cl.run.ensemble import evaluate_ensemble, open_members  # noqa: PLC0415
    from hf_cl.run.launch import quiet_libraries, status_of  # noqa: PLC0415

    if not distill and (images or student or hard_labels or resume or temperature != 2.0):
        raise early_mistake("--temperature, --hard_labels, --images, --student and --resume are for --distill; add it, or leave them out.")

    def start() -> None:
        quiet_libraries()
        members = open_members(runs, output_dir, resume=resume, cpu=cpu)
        if distill:
            from hf_cl.run.distill import Distillation  # noqa: PLC0415
            from hf_cl.run.distill import distill as train  # noqa: PLC0415

            results = train(members, Distillation(temperature, hard_labels, images, student or ()), quiet=as_json)
        else:
            results = evaluate_ensemble(members, average)
        print_json(_as_json(members, results)) if as_json else _print(members, results, distill)

    if status := status_of(start):
        raise typer.Exit(status)


def _as_json(members: Members, results: Results) -> dict[str, object]:
    each = [{"run": str(run.folder), "seed": run.results.seed, "metrics": run.results.metrics} for run in members.runs]
    return {"members": each, "metrics": results.metrics, "output_dir": members.settings.output_dir}


def _print(members: Members, results: Results, distilled: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from hf_cl.results.display import display_name  # noqa: PLC0415
    from hf_cl.results.members import disagreement_sentence  # noqa: PLC0415
    from hf_cl.results.table import FittedTable, headlines, summary_table  # noqa: PLC0415

    console = Console()
    if not distilled:  # a trainer has said it
        console.print(FittedTable(results))
        console.print(summary_table(results))
        typer.echo(f"Report {Path(members.settings.output_dir) / 'report.html'}")
    name = next(iter(headlines(results)))
    each = [run.results.numbers[name] for run in members.runs]
    best = members.names[max(range(len(each)), key=each.__getitem__)]
    what = "one adapter distilled from" if distilled else "the average of"
    typer.echo(
        f"{name}, percent: {what} {len(each)} runs {100 * results.numbers[name]:.2f}; these alone {100 * sum(each) / len(each):.2f} in the "
        f"mean, {100 * max(each):.2f} the best of them ({display_name(best)})."
    )
    if sentence := disagreement_sentence(results):
        typer.echo(sentence)
