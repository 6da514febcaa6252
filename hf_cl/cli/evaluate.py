"""`hf-cl evaluate`: a saved adapter on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hf_cl.cli.app import USE, AsJson, Imports, app, mistakes_in_a_line, print_json

if TYPE_CHECKING:
    from hf_cl.hub.evaluate import Evaluation
    from hf_cl.scenarios import ImageSet, ImageSource


@app.command(rich_help_panel=USE)
def evaluate(
    adapter: Annotated[str, typer.Argument(help="run folder (its last session), adapter folder, or Hub id")],
    dataset: Annotated[str, typer.Option(help="a folder of images, a folder of parquet or arrow files, a Hub id, or digits")],
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    test_split: Annotated[str, typer.Option("--test_split", "--test-split", help="the split to evaluate on")] = "test",
    image_column: Annotated[str | None, typer.Option("--image_column", "--image-column", help="where there are several")] = None,
    label_column: Annotated[str | None, typer.Option("--label_column", "--label-column", help="where there are several")] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip_bad_images", "--skip-bad-images", help="leave unreadable images out instead of stopping")
    ] = False,
    check_images: Annotated[
        Literal["all", "changed", "header", "none"],
        typer.Option("--check_images", "--check-images", help="which images are decoded first to find broken ones, as in training"),
    ] = "changed",
    include_trained: Annotated[
        bool, typer.Option("--include_trained", "--include-trained", help="evaluate also on images that the adapter was trained on")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", min=1, help="images per forward")] = 64,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a saved adapter on a data set, in all and per class.

    Classes are matched by name: every class of the data set must be one of the adapter's, and all classes of the adapter compete.
    """
    from hf_cl.hub.evaluate import evaluate as evaluate_adapter  # noqa: PLC0415
    from hf_cl.hub.load import load  # noqa: PLC0415
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415
    from hf_cl.run.look_at_pictures import picture_check  # noqa: PLC0415
    from hf_cl.scenarios import open_images  # noqa: PLC0415

    quiet_libraries()
    with mistakes_in_a_line():
        import_parts(imports or ())
        source = open_images(
            dataset,
            image_column=image_column,
            label_column=label_column,
            test_split=test_split,
            skip_bad_images=skip_bad_images,
            check=picture_check(check_images, quiet=False),
        )
        images, which, trained = _chosen(source, adapter, revision, include_trained)
        classifier = load(adapter, revision=revision)
        found = evaluate_adapter(classifier, images, source.class_names, batch_size=batch_size)
    if as_json:
        print_json(_as_json(found, adapter, revision, source.name, which) | {"trained_on": trained, "trained_included": include_trained})
    else:
        _print(found, source.name, which)
        if trained:
            total = found.images if include_trained else found.images + trained
            kept = "included" if include_trained else "left out (--include_trained keeps them)"
            typer.echo(f"{trained} of {total} of these were trained on; {kept}.")


def _chosen(source: ImageSource, adapter: str, revision: str | None, include_trained: bool) -> tuple[ImageSet, str, int]:
    """The images, what they are, and how many of them the adapter was trained on.

    A data set without a test split is taken whole. Images that the adapter was trained on, which its run knows by their content, are left
    out unless they are asked for.
    """
    import numpy as np  # noqa: PLC0415

    from hf_cl.scenarios import content_hashes  # noqa: PLC0415

    images = source.test if source.unsplit is None else source.unsplit
    which = f"split {source.test_split!r}" if source.unsplit is None else "all images, as the data set has no test split"
    trained = _trained_on(Path(adapter), revision)
    if trained is None:
        return images, f"{which}; which of them were trained on is not known", 0
    known = np.asarray([content in trained for content in content_hashes(images)], dtype=bool)
    if include_trained or not known.any():
        return images, which, int(known.sum())
    if known.all():
        raise ValueError(f"All {len(images)} images were trained on, so they tell nothing new; --include_trained evaluates on them.")
    return images.subset(~known), f"{which}, but those that were trained on", int(known.sum())


def _trained_on(adapter: Path, revision: str | None) -> frozenset[str] | None:
    """Contents of the images that an adapter of a run here was trained on; None for an adapter whose run is not here."""
    from hf_cl.results.picture_record import FILE, trained_on  # noqa: PLC0415
    from hf_cl.results.saved_run import run_of  # noqa: PLC0415

    run = run_of(adapter)
    if run is None or not (run / FILE).is_file():
        return None
    session = (revision or adapter.resolve().name).removeprefix("session-")
    return trained_on(run, int(session) if session.isdecimal() else None)


def _as_json(found: Evaluation, adapter: str, revision: str | None, dataset: str, which: str) -> dict[str, object]:
    per_class = {name: {"accuracy": right / total, "images": total} for name, (right, total) in found.per_class.items()}
    what = {"adapter": adapter, "revision": revision, "dataset": dataset, "tested_on": which}
    return {**what, "images": found.images, "accuracy": found.accuracy, "per_class": per_class, "classes_without_images": found.absent}


def _print(found: Evaluation, dataset: str, which: str) -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from hf_cl.results.display import display_name, percent  # noqa: PLC0415

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("class")
    table.add_column("images", justify="right")
    table.add_column("accuracy, percent", justify="right")
    for name, (right, total) in found.per_class.items():
        table.add_row(Text(display_name(name)), str(total), percent(right / total))
    table.add_section()
    table.add_row(Text("all", style="bold"), str(found.images), Text(percent(found.accuracy), style="bold"))
    console = Console()
    console.print(Text(f"{display_name(dataset)}: {which}"))
    console.print(table)
    if found.absent:
        console.print(Text(f"No images of {len(found.absent)} other classes of the adapter, which competed all the same."))
