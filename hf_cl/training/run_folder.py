"""One run at a time in a folder, and one configuration in it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from hf_cl.errors import holds_a_run, unasked
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.composition import FILE, changed
from hf_cl.settings import MAY_CHANGE_ON_RESUME, MAY_GROW_ON_RESUME, TrainingSettings

SEEN_SECONDS = 10.0
"""How long a network file system may take to show a file that another machine wrote."""


class RunFolder:
    """The main process holds a lock on the folder from `open` to `close`; the system frees it when the process dies."""

    def __init__(self, path: Path, accelerator: Any) -> None:
        self.path, self.accelerator = path, accelerator
        self._lock = FileLock(path / ".lock", timeout=0)

    def open(self, settings: TrainingSettings, composed: Mapping[str, Any]) -> None:
        """Lock the folder and write `config.yaml`, and `method.json` with what the method is made of, into it.

        Raises ValueError, on every process, where another run is writing there, where a run is there that nobody asked to resume, where
        settings or method of the run to resume differ, and where a process sees another folder than the main one.
        """
        refusals = [self._open(settings, composed) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(refusals)
        if refusals[0] is not None:
            raise ValueError(refusals[0])
        self._check_shared()

    def _check_shared(self) -> None:
        """Checkpoints have a file of each process: all must see what the main one writes, and they may be on different machines."""
        accelerator = self.accelerator
        if accelerator.num_processes == 1:
            return
        token = [uuid.uuid4().hex]
        broadcast_object_list(token)
        path = self.path / f".seen-{token[0]}"
        if accelerator.is_main_process:
            path.touch()
        accelerator.wait_for_everyone()
        found = torch.tensor([_comes(path)], device=accelerator.device)
        blind = (~accelerator.gather(found)).nonzero().flatten().tolist()
        if accelerator.is_main_process:
            path.unlink()
        if blind:
            self.close()
            raise ValueError(
                f"{self.path} is not the same folder everywhere: {len(blind)} of {accelerator.num_processes} processes (first: "
                f"{blind[0]}) do not see what process 0 writes there. Several machines need an --output_dir on storage that they share."
            )

    def close(self) -> None:
        """Let the next run in."""
        self._lock.release()

    def _open(self, settings: TrainingSettings, composed: Mapping[str, Any]) -> str | None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            return f"Another run is writing to {self.path}; choose another --output_dir."
        except OSError as error:
            return f"Cannot write to {self.path}: {error.strerror}; choose another --output_dir."
        text = yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)
        if holds_a_run(self.path):
            refusal = self._refuse(settings, yaml.safe_load(text)) or self._refuse_method(composed)
            if refusal is not None:
                self.close()
                return refusal
        write_atomically(self.path / "config.yaml", text)
        write_atomically(self.path / FILE, json.dumps(composed, indent=2))
        return None

    def _refuse(self, settings: TrainingSettings, values: dict[str, Any]) -> str | None:
        if settings.resume is None:
            return unasked(self.path)
        try:
            before = yaml.safe_load((self.path / "config.yaml").read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            return f"{self.path / 'config.yaml'} cannot be read ({error}), so nobody knows what its checkpoints belong to."
        for key, value in values.items():
            if key not in MAY_CHANGE_ON_RESUME | MAY_GROW_ON_RESUME and key in before and before[key] != value:
                return (
                    f"{self.path} was trained with {key} = {before[key]!r}, this run has {value!r}: resume with the same settings, or "
                    "choose another --output_dir."
                )
        return None

    def _refuse_method(self, composed: Mapping[str, Any]) -> str | None:
        path = self.path / FILE
        try:
            found = changed(json.loads(path.read_text()), composed)
        except (OSError, ValueError) as error:
            return f"{path} cannot be read ({error}), so nobody knows what its checkpoints belong to."
        if found is None:
            return None
        where, before, now = found
        return (
            f"{self.path} was trained by a method with {where} = {before!r}, this one has {now!r}: resume with the same method, or choose "
            "another --output_dir."
        )


def _comes(path: Path) -> bool:
    """Whether a file is there within `SEEN_SECONDS`."""
    until = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
