"""Sizes in bytes, as people write them."""

from __future__ import annotations

import re

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[kmgt]i?|)b?", re.IGNORECASE)


def byte_size(value: float | str, free: int = 0) -> int:
    """Bytes: of a number as it is, or up to 1 as a share of `free`; of a text such as `8GiB`, `500 MB` or `2G`.

    Raises ValueError for what is no size.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is no size; write bytes (8GiB, 500MB, 4e9), or a share of free memory up to 1 (0.25).")
        return int(float(match["number"]) * _UNITS[match["unit"].lower()])
    if not value >= 0:  # NaN is neither
        raise ValueError(f"{value!r} is no size: it must be 0 or more.")
    return int(value * free) if value <= 1 else int(value)
