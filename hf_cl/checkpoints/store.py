"""Checkpoints: written aside, synced, renamed; the last two are kept; the newest whole one wins. Safetensors and JSON only.

With several processes there is one folder with one file per rank; rank 0 renames it after all have written. A run on another number of
processes reads it too: but for the random generators all ranks have written the same, and rank r reads what rank r modulo N wrote.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hf_cl.checkpoints.state_tree import pack, unpack

logger = logging.getLogger(__name__)

KEEP = 2


class CheckpointStore:
    """The checkpoints of one run, in `folder`.

    Args:
        folder: `checkpoints/` of the run folder.
        rank, world: this process and the number of processes.
        barrier: returns when every process has reached it.
    """

    def __init__(self, folder: Path, rank: int = 0, world: int = 1, barrier: Callable[[], None] = lambda: None) -> None:
        self.folder, self.rank, self.world, self.barrier = folder, rank, world, barrier

    def save(self, step: int, state: dict[str, Any], needs: Mapping[str, str] | None = None) -> Path:
        """Write this process's `state` as part of the checkpoint of optimizer step `step`.

        `needs`: files in this store's folder that the state refers to, with their checksums: without them the checkpoint is not whole.
        """
        aside, final = self.folder / f".writing-{step:09d}", self.path(step)
        if self.rank == 0:
            for unfinished in self.folder.glob(".writing-*"):  # of a run that was killed, or found no space
                shutil.rmtree(unfinished)
            aside.mkdir(parents=True)
        self.barrier()
        self._write(aside, state, needs)
        self.barrier()
        if self.rank == 0:
            _sync(aside)
            shutil.rmtree(final, ignore_errors=True)
            aside.rename(final)
            _sync(self.folder)
            for old in self._folders()[KEEP:]:
                shutil.rmtree(old)
        self.barrier()
        return final

    def _write(self, folder: Path, state: dict[str, Any], needs: Mapping[str, str] | None = None) -> None:
        tensors: dict[str, Any] = {}
        tree = pack(state, tensors)
        names = _names(self.rank, self.world)
        (folder / names["json"]).write_text(json.dumps(tree, allow_nan=False))
        try:
            save_file(tensors, folder / names["tensors"])
        except SafetensorError as error:
            raise OSError(f"Cannot write {folder / names['tensors']}: {error}") from error
        sums = {name: _checksum(folder / name) for name in (names["json"], names["tensors"])}
        (folder / names["sums"]).write_text(json.dumps(sums | {f"../{path}": checksum for path, checksum in (needs or {}).items()}))
        for name in names.values():
            _sync(folder / name)

    def _mine(self, path: Path) -> dict[str, str]:
        """Names of the files that this process reads."""
        world = self.world_of(path)
        return _names(self.rank % world, world)

    def world_of(self, path: Path) -> int:
        """How many processes wrote a checkpoint: its files say so in their names. This run's number where there are none."""
        names = [name.name.split(".")[0].split("-") for name in path.glob("rank-*-of-*")]
        return max((int(parts[3]) for parts in names if len(parts) == 4 and parts[3].isdigit() and int(parts[3])), default=self.world)

    def _folders(self) -> list[Path]:
        """Whole or torn, newest first."""
        return sorted(self.folder.glob("step-*"), reverse=True)

    def steps(self) -> list[int]:
        """Steps of the checkpoints that this process can read whole, newest first."""
        return [int(path.name.removeprefix("step-")) for path in self._folders() if self._is_whole(path)]

    def _is_whole(self, path: Path) -> bool:
        names = self._mine(path)
        try:
            sums = json.loads((path / names["sums"]).read_text())
            if not isinstance(sums, dict) or not {names["json"], names["tensors"]} <= sums.keys():
                raise ValueError(f"{names['sums']} is no list of checksums")
            torn = [name for name, expected in sums.items() if _checksum(path / name) != expected]
        except (OSError, ValueError) as error:
            torn = [str(error)]
        if torn:
            logger.warning("Checkpoint %s is not whole (%s); an older one is used if there is one.", path, torn[0])
        return not torn

    def load(self, step: int) -> dict[str, Any]:
        """The state of `step`: what this process saved, or, on another number of processes, what one of the then ones did.

        Raises ValueError where the checkpoint cannot be read.
        """
        path = self.path(step)
        names = self._mine(path)
        try:
            return unpack(json.loads((path / names["json"]).read_text()), load_file(path / names["tensors"]))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(f"Checkpoint {path} cannot be read: {error}") from error

    def needed(self) -> set[str]:
        """Files in this store's folder that some checkpoint refers to."""
        found: set[str] = set()
        for path in (path for folder in self._folders() for path in folder.glob("*.sha256.json")):
            try:
                found |= {name.removeprefix("../") for name in dict(json.loads(path.read_text())) if name.startswith("../")}
            except (OSError, ValueError, TypeError):  # a torn one, which nobody will read
                continue
        return found

    def read(self, step: int, key: str, rank: int | None = None) -> Any:
        """One entry of the state of `step` that holds no tensors, without reading those; as this process saved it, or another `rank`."""
        path = self.path(step)
        names = self._mine(path) if rank is None else _names(rank, self.world_of(path))
        tree = json.loads((path / names["json"]).read_text())
        return unpack(next((value for name, value in tree["$dict"] if name == key), None), {})

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of `step`."""
        return self.folder / f"step-{step:09d}"


def _names(rank: int, world: int) -> dict[str, str]:
    stem = f"rank-{rank:03d}-of-{world:03d}"
    return {"json": f"{stem}.json", "tensors": f"{stem}.safetensors", "sums": f"{stem}.sha256.json"}


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
