"""Moments of many classes as a few tensors, and back: what a file of class statistics holds.

Classes stand side by side: their means as rows of one tensor, the rows of their factors one after the other. So a file of ten thousand
classes has as many tensors as one of ten.

Shapes: c classes, D width of the features, k rows of a class's factor, r directions of a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_cl.memory.moments import LowRank, Moments


def tensors_of(moments: Mapping[int, Moments]) -> dict[str, Tensor]:
    """Of each class its position, count and mean, and the kinds of scatter that are kept; without a tensor for those that are not.

    `factor_rows` and `direction_rows` [c] say how many rows of `factors` [sum of k, D] and `directions` [sum of r, D] are whose; a class of
    one image has no low rank, and NaN for its residual.
    """
    found = [moments[label] for label in moments]
    tensors = {
        "classes": torch.tensor([*moments], dtype=torch.int64),
        "counts": torch.tensor([each.count for each in found], dtype=torch.int64),
    }
    if not found:
        return tensors
    tensors["means"] = torch.stack([each.mean for each in found])  # [c, D]
    factors = [each.factor for each in found if each.factor is not None]
    if factors:
        tensors |= _side_by_side("factor", factors)
    squares = [each.squares for each in found if each.squares is not None]
    if squares:
        tensors["squares"] = torch.stack(squares)  # [c, D]
    if any(each.low_rank is not None for each in found):
        none = LowRank(tensors["means"].new_zeros(0, tensors["means"].shape[1]), torch.nan)
        low_ranks = [each.low_rank or none for each in found]
        tensors |= _side_by_side("direction", [low_rank.factor for low_rank in low_ranks])
        tensors["residuals"] = torch.tensor([low_rank.residual for low_rank in low_ranks], dtype=torch.float64)  # [c]
    return tensors


def _side_by_side(name: str, parts: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"{name}s": torch.cat([*parts]), f"{name}_rows": torch.tensor([len(part) for part in parts], dtype=torch.int64)}


def moments_of(tensors: Mapping[str, Tensor]) -> dict[int, Moments]:
    """Inverse of `tensors_of`: class -> moments, to the bit. Other tensors among them are passed over.

    Raises ValueError for tensors that do not fit together, and for values that no images have.
    """
    _check(tensors)
    classes, counts = tensors["classes"].tolist(), tensors["counts"].tolist()
    if not classes:
        return {}
    count = len(classes)
    factors = _parted(tensors, "factor", count)
    directions = _parted(tensors, "direction", count)
    squares = tensors.get("squares")
    residuals = tensors["residuals"].tolist() if "residuals" in tensors else [torch.nan] * count
    found = {}
    for i, (label, images) in enumerate(zip(classes, counts, strict=True)):
        rows = directions[i]
        low_rank = LowRank(rows.clone(), residuals[i]) if rows is not None and residuals[i] == residuals[i] else None
        factor = factors[i]
        found[label] = Moments(
            images,
            tensors["means"][i].clone(),
            None if factor is None else factor.clone(),
            None if squares is None else squares[i].clone(),
            low_rank,
        )
    return found


def _parted(tensors: Mapping[str, Tensor], name: str, count: int) -> Sequence[Tensor | None]:
    if f"{name}s" not in tensors:
        return [None] * count
    return tensors[f"{name}s"].split(tensors[f"{name}_rows"].tolist())


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the shapes follow from the number of classes and the width, and all values are numbers."""
    missing = {"classes", "counts"} - tensors.keys()
    if missing:
        raise ValueError(f"{' and '.join(sorted(missing))} are missing.")
    classes, counts = tensors["classes"], tensors["counts"]
    if any(t.ndim != 1 or t.dtype != torch.int64 or len(t) != len(classes) for t in (classes, counts)):
        raise ValueError("classes and counts must be lists of whole numbers of one length.")
    if len(classes.unique()) != len(classes) or (classes < 0).any() or (counts < 1).any():
        raise ValueError("classes must be distinct positions, each with an image at least.")
    if not len(classes):
        return
    means = tensors.get("means")
    if means is None or means.ndim != 2 or len(means) != len(classes):
        raise ValueError(f"means must be [{len(classes)}, D].")
    width = means.shape[1]
    shapes: dict[str, tuple[int, ...]] = {"means": (len(classes), width), "squares": (len(classes), width), "residuals": (len(classes),)}
    shapes |= {f"{name}s": (_rows(tensors, name), width) for name in ("factor", "direction")}
    if ("residuals" in tensors) != ("directions" in tensors):
        raise ValueError("directions and residuals belong together.")
    for name, shape in shapes.items():
        if name in tensors and (tensors[name].dtype != torch.float64 or tensors[name].shape != shape):
            raise ValueError(f"{name} must be {list(shape)} of float64, got {list(tensors[name].shape)} of {tensors[name].dtype}.")
        if name in tensors and name != "residuals" and not tensors[name].isfinite().all():
            raise ValueError(f"{name} has values that are no numbers.")


def _rows(tensors: Mapping[str, Tensor], name: str) -> int:
    """How many rows the classes have together."""
    rows = tensors.get(f"{name}_rows")
    if (rows is None) != (f"{name}s" not in tensors):
        raise ValueError(f"{name}s and {name}_rows belong together.")
    if rows is None:
        return 0
    if rows.shape != tensors["classes"].shape or rows.dtype != torch.int64 or (rows < 0).any():
        raise ValueError(f"{name}_rows must be {len(tensors['classes'])} whole numbers.")
    return int(rows.sum())
