"""Images that a memory keeps, as a data set.

Letters: m images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hf_cl.contracts import ImageDataset
from hf_cl.memory.image_arrays import ImageArrays


@dataclass(frozen=True)
class Kept:
    """One image, and where it is read."""

    label: int
    index: int
    """Its sample id in this data set."""
    where: ImageDataset | Path
    """The data set that has it, or the file of its copy."""
    position: int | None
    """In that data set."""
    domain: int | None = None
    """Where that data set knows it."""


class KeptImages(ImageArrays):
    """Fulfils `hf_cl.contracts.ImageDataset`, [m]."""

    def __init__(self, entries: Sequence[Kept]) -> None:
        self._entries = entries
        super().__init__([entry.label for entry in entries], [entry.index for entry in entries])

    @property
    def domains(self) -> list[int] | None:
        """[m]; None where one is not known, as of a copy."""
        found = [entry.domain for entry in self._entries if entry.domain is not None]
        return found if len(found) == len(self._entries) else None

    def __getitem__(self, position: int) -> dict[str, Any]:
        """As the data set has it. Raises OSError for a copy that is gone."""
        entry = self._entries[position]
        if isinstance(entry.where, Path):
            with Image.open(entry.where, formats=["PNG"]) as file:
                image: Any = file.convert("RGB")
        else:
            assert entry.position is not None
            image = entry.where[entry.position]["image"]
        return {"image": image, "label": entry.label, "index": entry.index}


class KeptOfOneSource(KeptImages):
    """All of them are pictures of one larger data set, which is the session's too."""

    def __init__(self, entries: Sequence[Kept], source: Any) -> None:
        super().__init__(entries)
        self._source = source

    @property
    def source(self) -> Any:
        return self._source
