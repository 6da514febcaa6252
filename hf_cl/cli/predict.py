"""`hf-cl predict`: names for images."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_cl.cli.app import USE, AsJson, Imports, app, early_mistake, mistakes_in_a_line, writes_every_letter

if TYPE_CHECKING:
    from hf_cl.hub.predictions import Predictor, Row


WEAK = 0.7
"""Below this AUROC `--unknown` warns."""


class Format(StrEnum):
    """How rows are written."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


@app.command(rich_help_panel=USE)
def predict(
    adapter: Annotated[str, typer.Argument(help="Hub id, adapter folder, run folder (its last session), or an exported ONNX folder")],
    images: Annotated[list[str] | None, typer.Argument(help="image files, folders (with all below them), or patterns in quotes")] = None,
    files: Annotated[str | None, typer.Option(help="a file with one image file a line; - for standard input")] = None,
    revision: Annotated[str | None, typer.Option(help="revision of the adapter, e.g. session-3")] = None,
    top_k: Annotated[int, typer.Option("--top_k", "--top-k", min=1, help="classes per image")] = 3,
    form: Annotated[Format, typer.Option("--format", help="table, or json (one value), jsonl (a line each), csv")] = Format.table,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="say which images look like none of the classes; the run had the probe novelty")
    ] = False,
    batch_size: Annotated[int, typer.Option("--batch_size", "--batch-size", min=1, help="images per forward")] = 32,
    num_workers: Annotated[int, typer.Option("--num_workers", "--num-workers", min=1, help="threads that decode")] = 4,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; the GPU where there is one")] = None,
    dtype: Annotated[str | None, typer.Option(help="of the base: float32, float16, bfloat16")] = None,
    domain: Annotated[str | None, typer.Option(help="of which domain the images are, for an adapter that has norms for several")] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Name what is in images, as they come. A file that cannot be read is a row with its reason; the exit status is then 1."""
    asked = [*(images or []), *(_listed(files) if files is not None else [])]
    if not asked:
        raise early_mistake("No image is given. Name files or folders, or a list of them with --files.")
    missing = [f"There is no file {image!r}." for image in asked if not os.path.exists(image) and not set("*?[") & set(image)]  # noqa: PTH110
    if len(missing) == len(asked):
        raise early_mistake("\n".join(missing[:10]))
    from hf_cl.own_parts import import_parts  # noqa: PLC0415
    from hf_cl.run import quiet_libraries  # noqa: PLC0415

    quiet_libraries()
    bad = total = 0
    with mistakes_in_a_line():
        import_parts(imports or ())
        predictor = _open(adapter, revision, device, dtype, domain)
        rows = predictor.rows(asked, top_k, batch_size, num_workers, unknown=unknown)
        if unknown:
            _warn_of_a_weak_score(predictor)
        for row in _written(rows, Format.json if as_json else form, top_k, unknown):
            total, bad = total + 1, bad + (row.error is not None)
            _show_progress(total)
    if bad:
        typer.echo(f"hf-cl: {bad} of {total} files could not be read.", err=True)
        raise typer.Exit(1)


def _open(adapter: str, revision: str | None, device: str | None, dtype: str | None, domain: str | None) -> Predictor:
    from hf_cl.hub.load import load  # noqa: PLC0415
    from hf_cl.hub.predictions import OnnxClassifier, is_exported  # noqa: PLC0415

    if not is_exported(adapter):
        classifier = load(adapter, revision=revision, device=device, dtype=dtype)
        if domain is not None:
            classifier.set_domain(domain)
        return classifier
    if revision or dtype or domain or device not in (None, "cpu"):
        raise ValueError(f"{adapter} is an exported model, which runs on the CPU as it is: leave revision, device, dtype and domain out.")
    return OnnxClassifier(Path(adapter))


def _warn_of_a_weak_score(predictor: Predictor) -> None:
    auroc = None if predictor.novelty is None else predictor.novelty.auroc
    if auroc is not None and auroc < WEAK:
        typer.echo(f"hf-cl: in its run the score told unknown pictures only with an AUROC of {auroc:.2f}; do not rely on it.", err=True)


def _listed(files: str) -> list[str]:
    try:
        text = sys.stdin.read() if files == "-" else Path(files).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise early_mistake(f"The list {files!r} cannot be read: {error}.") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _written(rows: Iterable[Row], form: Format, top_k: int, unknown: bool) -> Iterator[Row]:
    """Write each row when it is there, and hand it on."""
    letters = writes_every_letter()
    if form is Format.csv:
        typer.echo(
            _csv(
                [
                    "file",
                    *(f"{part}_{k}" for k in range(1, top_k + 1) for part in ("class", "score")),
                    *(["unknown"] if unknown else []),
                    "error",
                ]
            )
        )
    for number, row in enumerate(rows):
        scores = {prediction.name: prediction.score for prediction in row.predictions}
        if form is Format.table:
            typer.echo(_line(row))
        elif form is Format.csv:
            cells = [cell for prediction in row.predictions for cell in (prediction.name, f"{prediction.score:.6f}")]
            typer.echo(
                _csv([row.name, *cells, *[""] * (2 * top_k - len(cells)), *([_yes(row.unknown)] if unknown else []), row.error or ""])
            )
        elif form is Format.jsonl:
            strange = {"unknown": row.unknown} if unknown else {}
            typer.echo(json.dumps({"file": row.name, "scores": scores, **strange, "error": row.error}, ensure_ascii=not letters))
        else:
            said = {"scores": scores, "unknown": row.unknown} if unknown else scores
            value = json.dumps(said if row.error is None else {"error": row.error}, ensure_ascii=not letters, indent=2).replace(
                "\n", "\n  "
            )
            typer.echo(f"{'{' if number == 0 else ','}\n  {json.dumps(row.name, ensure_ascii=not letters)}: {value}", nl=False)
        yield row
    if form is Format.json:
        typer.echo("\n}")


def _line(row: Row) -> str:
    from hf_cl.results.display import display_name, printable  # noqa: PLC0415

    if row.error is not None:
        return printable(row.error)
    names = ", ".join(f"{display_name(p.name)} {100 * p.score:.1f} %" for p in row.predictions)
    if row.unknown:
        return f"{printable(row.name)}: unknown (looks like none of the classes; nearest: {names})"
    return f"{printable(row.name)}: {names}"


def _yes(value: bool | None) -> str:
    return "" if value is None else str(value).lower()


def _csv(cells: list[str]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(cells)
    return written.getvalue()


def _show_progress(total: int) -> None:
    """How far it is, where the rows themselves do not show it."""
    if sys.stderr.isatty() and not sys.stdout.isatty() and total % 100 == 0:
        typer.echo(f"\r{total} images", err=True, nl=False)
