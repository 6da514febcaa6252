"""In which order the classes arrive."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_cl.errors import DataError, brief, exists, first_ten
from hf_cl.hints import nearest


def _natural(num_classes: int, seed: int) -> NDArray[np.int64]:
    return np.arange(num_classes)


def _seeded(num_classes: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(num_classes)


def _pycil(num_classes: int, seed: int) -> NDArray[np.int64]:
    return np.random.RandomState(1993).permutation(num_classes).astype(np.int64)


def _coda(num_classes: int, seed: int) -> NDArray[np.int64]:
    order = list(range(num_classes))
    if seed > 0:
        random.Random(seed).shuffle(order)
    return np.asarray(order)


CLASS_ORDERS: dict[str, Callable[[int, int], NDArray[np.int64]]] = {
    "natural": _natural,
    "seed": _seeded,
    "pycil": _pycil,
    "coda": _coda,
}
"""Name -> function of (number of classes, class_order_seed) that gives the labels in order of arrival."""

DRAWN_ORDERS = ("seed", "coda")
"""Those that `class_order_seed` moves."""


def resolve_class_order(class_names: Sequence[str], class_order: str | os.PathLike[str], class_order_seed: int = 0) -> NDArray[np.int64]:
    """Labels in order of arrival, [C]: session 0 gets the first of them.

    Args:
        class_names: in label order.
        class_order: `natural`, label order; `seed`, a permutation drawn by `class_order_seed`; `pycil`, the one order of PyCIL and PILOT
            (numpy's legacy generator, seed 1993); `coda`, the order of CODA-Prompt and OVOR for run `class_order_seed` (0: natural);
            or a text file with one class name per line.
        class_order_seed: see above; 0 or more.

    Raises DataError for a file that does not name every class exactly once, ValueError for an unknown name or a negative seed.
    """
    if class_order_seed < 0:
        raise ValueError(f"class_order_seed must be 0 or more, got {class_order_seed}.")
    if isinstance(class_order, str) and class_order in CLASS_ORDERS:
        return CLASS_ORDERS[class_order](len(class_names), class_order_seed)
    check_class_order(class_order)
    return _from_file(Path(class_order).expanduser(), class_names)


def check_class_order(class_order: str | os.PathLike[str]) -> None:
    """Raise ValueError for what is neither a known order nor a file."""
    path = Path(class_order).expanduser()
    if class_order not in CLASS_ORDERS and not (exists(path) and path.is_file()):
        raise ValueError(
            f"class_order {brief(repr(str(class_order)))} is neither {', '.join(CLASS_ORDERS)} nor a file."
            f"{nearest(str(class_order), CLASS_ORDERS)}"
        )


def _from_file(path: Path, class_names: Sequence[str]) -> NDArray[np.int64]:
    label_of = {name.strip(): label for label, name in enumerate(class_names)}
    line_of: dict[str, int] = {}
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in label_of:
            raise DataError(f"{path}, line {number}: {name!r} is no class of the data set.{nearest(name, label_of)}")
        if name in line_of:
            raise DataError(f"{path}, line {number}: {name!r} stands in line {line_of[name]} already.")
        line_of[name] = number
    if missing := [repr(name) for name in label_of if name not in line_of]:
        raise DataError(f"{path} leaves out {len(missing)} of {len(class_names)} classes: {first_ten(missing)}.")
    return np.asarray([label_of[name] for name in line_of])
