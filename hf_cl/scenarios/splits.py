"""What every reader of images gives: the splits of a data set under the names they have there; and how a split is spelled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hf_cl.scenarios.image_set import ImageSet

SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Kind of split -> the words that name it, those of `datasets`; in any case, alone or set off by one of `-._ ` or digits."""
UNSPLIT = "data"
"""The one split of data that names none."""

_KIND_OF = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}


@dataclass(frozen=True)
class Splits:
    """Images as they were found, before any check: labels may be missing (`NO_LABEL`) or out of range."""

    images: Mapping[str, ImageSet]
    """Split name -> its images."""
    class_names: tuple[str, ...]
    """In label order."""
    domain_names: tuple[str, ...] = ()
    """By number, as `ImageSet.domains` has them; () where no column says them."""


def split_kind(name: str) -> str | None:
    """train, validation or test for `Train`, `train_set`, `testset`, `my_test`, `VAL-2`; None without such a word, or with two kinds."""
    words = re.split(r"[-._ 0-9]+", name.casefold())
    kinds = {kind for word in words if (kind := _KIND_OF.get(word) or _KIND_OF.get(word.removesuffix("set")))}
    return kinds.pop() if len(kinds) == 1 else None


def is_split_word(name: str) -> bool:
    """Whether the name says nothing but which split it is: `Train`, but not `train station`."""
    return name.casefold() in _KIND_OF


def of_kind(found: Iterable[str], wanted: str) -> list[str]:
    """The split that is called `wanted`, or those of its kind."""
    found = list(found)
    if wanted in found:
        return [wanted]
    kind = split_kind(wanted)
    return [name for name in found if kind is not None and split_kind(name) == kind]
