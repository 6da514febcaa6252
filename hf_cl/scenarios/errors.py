"""What is wrong with the user's data, said before anything trains."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """The data, or a list that points into it, cannot be used as it is. The message names the offenders and what decides about them."""


class UnreadableImageError(DataError):
    """One image cannot be decoded."""

    def __init__(self, where: str, cause: str) -> None:
        super().__init__(f"{where} cannot be read as an image: {cause}.")
        self.where = where
        self.cause = cause


def nearest(name: str, valid: Iterable[str]) -> str:
    """` Did you mean 'x'?` for a mistyped name, or nothing where no valid name is near."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def first_ten(offenders: Iterable[str]) -> str:
    """The first ten, joined, with an ellipsis where there are more."""
    listed = list(offenders)
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")
