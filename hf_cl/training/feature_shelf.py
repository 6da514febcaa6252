"""Features of pictures in a folder, shared by runs: what `--feature_cache` keeps of one backbone.

Shapes: B pictures, D feature width (or [H, W, D] of a map of tokens), S image side.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hf_cl.results.atomic_write import write_atomically

logger = logging.getLogger(__name__)

KEY_BYTES = 16
PER_FILE = 4096
"""Pictures in a file at most: what a killed run may lose."""
STALE_SECONDS = 86400.0
"""A file that was being written is left over from a killed run when it is so old."""


def keys_of(pixels: Tensor) -> list[bytes]:
    """What pictures are known by: their pixels as the image processor cuts them out, uint8 [B, 3, S, S] on the CPU.

    So a picture is the same wherever its file lies, and another one where the processor resizes it otherwise.
    """
    return [hashlib.blake2b(picture, digest_size=KEY_BYTES).digest() for picture in pixels.contiguous().numpy()]


class FeatureShelf:
    """Rows of features by picture, of one state of one backbone.

    Each file holds some pictures' keys and rows, is written aside and renamed, and is mapped into memory, not read. A file that is
    damaged is passed over with a warning. Any number of runs and processes may read and write; all of the folder may be deleted.

    Args:
        folder: of this state of this backbone alone.
        about: what that state is, in words for people.
    """

    def __init__(self, folder: Path, about: str = "") -> None:
        self.folder = folder
        self._files: list[Tensor] = []  # [n, D] each
        self._where: dict[bytes, tuple[int, int]] = {}  # of a picture: file and row
        self._seen: set[str] = set()
        self._new: dict[bytes, Tensor] = {}  # [D] each, on the CPU
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".writing-*"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
        if not (folder / "about.json").exists():
            aside = folder / f".writing-{uuid.uuid4().hex}"  # by a name of its own: others may begin at the same moment
            aside.write_text(about)
            aside.replace(folder / "about.json")
        self.refresh()

    def refresh(self) -> None:
        """Take in what others have written since."""
        for path in sorted(self.folder.glob("features-*.safetensors")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                self._map(path)

    def _map(self, path: Path) -> None:
        try:
            with safe_open(path, "pt") as file:
                keys, rows = file.get_tensor("pictures"), file.get_tensor("features")
        except (SafetensorError, OSError) as error:
            logger.warning("%s is no whole file of features (%s) and is passed over; it may be deleted.", path, error)
            return
        fits = keys.dtype == torch.uint8 and keys.shape == (len(rows), KEY_BYTES)
        if not fits or rows.ndim < 2 or rows.dtype not in (torch.float32, torch.float64):
            logger.warning("%s is no file of features of hf_cl and is passed over.", path)
            return
        packed = keys.numpy().tobytes()
        self._files.append(rows)
        for row in range(len(rows)):
            self._where[packed[row * KEY_BYTES : (row + 1) * KEY_BYTES]] = len(self._files) - 1, row

    def missing(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """The pictures that are not here, each once, and where in `keys` it stands."""
        found: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if key not in self._where and key not in self._new:
                found.setdefault(key, place)
        return found

    def rows(self, keys: Sequence[bytes]) -> Tensor:
        """[B, D] on the CPU, of pictures that are here."""
        return torch.stack([self._row(key) for key in keys])

    def _row(self, key: bytes) -> Tensor:
        if key in self._new:
            return self._new[key]
        file, row = self._where[key]
        return self._files[file][row]

    def add(self, keys: Sequence[bytes], features: Tensor) -> None:
        """Put in the features [B, D] of pictures; `filling` writes them."""
        self._new.update(zip(keys, features.cpu(), strict=True))
        if len(self._new) >= PER_FILE:
            self._write()

    @contextmanager
    def filling(self, first: Sequence[bytes]) -> Iterator[None]:
        """While one pass over a data set runs: writes what it adds, also where it ends early.

        Another run that has just begun the same pass, one whose first batch has the same pictures, waits and finds all of them.
        """
        self.refresh()
        if not self.missing(first):
            yield from self._writing()
            return
        with FileLock(self.folder / f".pass-{hashlib.sha256(b''.join(first)).hexdigest()[:16]}.lock"):
            self.refresh()
            yield from self._writing()

    def _writing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._write()

    def _write(self) -> None:
        finite = [(key, row) for key, row in self._new.items() if row.isfinite().all()]  # others are for their reader to refuse
        self._new = {}
        if not finite:
            return
        keys = torch.frombuffer(bytearray(b"".join(key for key, _ in finite)), dtype=torch.uint8).view(-1, KEY_BYTES)
        path = self.folder / f"features-{uuid.uuid4().hex}.safetensors"
        write_atomically(path, save({"pictures": keys, "features": torch.stack([row for _, row in finite])}))
        self.refresh()
