"""CSV, TSV and JSON lines, read as they are written: a class called `NA`, `007` or `null` stays one.

Blanks around a field of CSV and TSV are dropped, as people write them after commas.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cl.errors import DataError

if TYPE_CHECKING:
    import datasets

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_ENCODINGS = ("utf-8-sig", "cp1252", "latin-1")
_INTEGER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0)?")


def read_text_table(file: Path) -> datasets.Dataset:
    """A table with the columns of the file. Raises DataError, with the line where there is one, for what cannot be read."""
    import datasets  # noqa: PLC0415 (photos in folders do not wait for it)
    import pyarrow  # noqa: PLC0415

    text = _decoded(file)
    columns = _json_lines(file, text) if file.suffix.lower() in (".jsonl", ".ndjson") else _delimited(file, text)
    if not columns or not next(iter(columns.values())):
        raise DataError(f"{file} holds no rows.")
    try:
        return datasets.Dataset.from_dict(columns)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, TypeError) as error:
        raise DataError(f"{file}: a column mixes types: {' '.join(str(error).split())}") from error


def _decoded(file: Path) -> str:
    content = file.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    for encoding in _ENCODINGS:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{file} is no text.")  # latin-1 reads any byte


def _delimited(file: Path, text: str) -> dict[str, list[Any]]:
    first = text.partition("\n")[0]
    delimiter = "\t" if file.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as a table: {error}.") from error
    if not rows:
        return {}
    header = [title.strip() for title in rows[0]]
    twice = sorted({title for title in header if header.count(title) > 1})
    if twice:
        raise DataError(f"{file}: column {twice[0]!r} stands there twice.")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise DataError(f"{file}, row {number}: {len(row)} fields, the header has {len(header)} ({', '.join(header)}).")
    return {title: _typed([row[i].strip() for row in rows[1:]]) for i, title in enumerate(header)}


def _typed(values: list[str]) -> list[Any]:
    """Integers where every field is one (also as `3.0`, which spreadsheets write); an empty field is missing."""
    present = [value for value in values if value]
    if present and all(_INTEGER.fullmatch(value) for value in present):
        return [int(value.removesuffix(".0")) if value else None for value in values]
    return [value or None for value in values]


def _json_lines(file: Path, text: str) -> dict[str, list[Any]]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {number} is no JSON: {error}.") from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number} is no JSON object with columns, but {type(row).__name__}.")
        rows.append(row)
    titles = dict.fromkeys(title for row in rows for title in row)
    return {title: [row.get(title) for row in rows] for title in titles}
