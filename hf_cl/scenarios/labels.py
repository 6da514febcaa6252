"""Labels of any type, to class names and numbers: the same class whatever file, split or type it is written in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import NO_LABEL

Kind = Literal["names", "words", "numbers"]


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one table: as they stand there, and the names of a ClassLabel where it is one."""

    where: str
    """For messages: `split 'train'`."""
    values: Sequence[Any]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Read:
    where: str
    kind: Kind
    values: list[Any]
    """str under "words", int under "numbers"; positions in `names` under "names"; None where a label is missing."""
    names: tuple[str, ...]

    def examples(self) -> str:
        shown = self.names if self.kind == "names" else dict.fromkeys(value for value in self.values if value is not None)
        return f"{self.kind} in {self.where} ({first_ten([str(value) for value in shown][:3])})"


def read_labels(name: str, column: str, parts: Sequence[LabelColumn]) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """(class names in label order, labels of each part). A missing label is `NO_LABEL`, one outside of its ClassLabel is out of range.

    Classes of ClassLabel columns stand in the order of the first, those that only later ones name behind them; other classes are the values
    that occur, sorted. Whole floats are integers, booleans the words False and True. Parts may differ in type where that has one meaning:
    words beside the names of a ClassLabel that they share, numbers beside a ClassLabel whose names are no numbers (they count its names),
    words that are all numbers beside numbers.

    Raises DataError, naming both sides, where types differ otherwise; for lists (several labels per picture) and numbers with a fraction.
    """
    read = [_read(name, column, part) for part in parts]
    named = [part for part in read if part.kind == "names"]
    others = [part for part in read if part.kind != "names" and any(value is not None for value in part.values)]
    if named:
        class_names = tuple(dict.fromkeys(class_name for part in named for class_name in part.names))
        values = [_as_names(name, column, part, named, class_names) for part in read]
        label_of = {class_name: label for label, class_name in enumerate(class_names)}
        return class_names, [_numbered(part_values, label_of, len(class_names)) for part_values in values]
    if len({part.kind for part in others}) > 1:
        others = [_as_numbers(name, column, part, others) for part in others]
        by_where = {part.where: part for part in others}
        read = [by_where.get(part.where, part) for part in read]
    found = sorted({value for part in read for value in part.values if value is not None})
    label_of = {value: label for label, value in enumerate(found)}
    return tuple(str(value) for value in found), [_numbered(part.values, label_of, len(found)) for part in read]


def _read(name: str, column: str, part: LabelColumn) -> _Read:
    values = [_plain(value) for value in part.values]
    if part.names is not None:
        return _Read(part.where, "names", values, part.names)
    present = [value for value in values if value is not None]
    if any(isinstance(value, (list, tuple, dict, np.ndarray)) for value in present):
        raise DataError(
            f"{name!r}: column {column!r} holds lists in {part.where}, that is several labels per picture; hf_cl learns one class per "
            "picture. Name a column with one label each by --label_column."
        )
    if any(isinstance(value, float) for value in present):
        odd = [str(value) for value in present if isinstance(value, float)]
        raise DataError(f"{name!r}: column {column!r} holds numbers with a fraction in {part.where}, and no classes: {first_ten(odd[:3])}.")
    words = [value for value in present if isinstance(value, str)]
    numbers = [value for value in present if isinstance(value, int)]
    if words and numbers:
        if not all(map(_is_number, words)):
            raise DataError(
                f"{name!r}: column {column!r} mixes words ({first_ten(words[:3])}) and numbers ({first_ten(map(str, numbers[:3]))}) in "
                f"{part.where}; write all as words."
            )
        return _Read(part.where, "numbers", [None if value is None else int(value) for value in values], ())
    return _Read(part.where, "words" if words else "numbers", values, ())


def _plain(value: Any) -> Any:
    """None, str or int of a label, a float with a fraction, or what is no label."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        return None if np.isnan(number) else int(number) if number.is_integer() else number
    return list(value) if isinstance(value, np.ndarray) else value


def _as_names(name: str, column: str, part: _Read, named: Sequence[_Read], class_names: Sequence[str]) -> list[Any]:
    """The labels of a part as class names; numbers that are none stay numbers, out of range."""
    if part.kind == "names":
        return [_name_at(part.names, value) for value in part.values]
    present = {value for value in part.values if value is not None}
    if not present or (part.kind == "words" and present & set(class_names)):
        return part.values
    one_order = len({other.names for other in named}) == 1
    unlike = not any(map(_is_number, class_names)) or all(class_name == str(label) for label, class_name in enumerate(class_names))
    if part.kind == "numbers" and one_order and unlike and present <= set(range(len(class_names))):
        return [_name_at(class_names, value) for value in part.values]
    raise _differ(name, column, named[0], part)


def _name_at(names: Sequence[str], value: Any) -> Any:
    return value if value is None or not 0 <= value < len(names) else names[value]


def _as_numbers(name: str, column: str, part: _Read, parts: Sequence[_Read]) -> _Read:
    if part.kind == "numbers":
        return part
    if not all(_is_number(value) for value in part.values if value is not None):
        raise _differ(name, column, part, next(other for other in parts if other.kind == "numbers"))
    return _Read(part.where, "numbers", [None if value is None else int(value) for value in part.values], ())


def _differ(name: str, column: str, one: _Read, other: _Read) -> DataError:
    return DataError(
        f"{name!r}: the labels of column {column!r} are {one.examples()} and {other.examples()}: nobody can tell which are the "
        "same classes. Write them in one way."
    )


def _is_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text


def _numbered(values: Iterable[Any], label_of: dict[Any, int], beyond: int) -> NDArray[np.int64]:
    return np.asarray(
        [NO_LABEL if value is None else label_of.get(value, _out_of_range(value, beyond)) for value in values], dtype=np.int64
    )


def _out_of_range(value: Any, beyond: int) -> int:
    return value if isinstance(value, int) and not 0 <= value < beyond else beyond
