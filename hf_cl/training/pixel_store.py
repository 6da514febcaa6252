"""The store of pixels of a run, and the processes that share it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object

from hf_cl.byte_sizes import byte_size
from hf_cl.images import Forms, Host, PixelStore, Preprocessor, build_augmentation, free_memory, make_folder
from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator


def open_store(processor: Any, settings: TrainingSettings, accelerator: RunAccelerator) -> PixelStore:
    """Made once by every process, before data are opened or when training begins."""
    preprocessor = Preprocessor(processor)
    forms = Forms(preprocessor, build_augmentation(settings.augmentation, preprocessor))
    cache = None if settings.image_cache is None else Path(settings.image_cache).expanduser()
    host = this_host(accelerator)
    budget = host.once(lambda: byte_size(settings.image_memory, free_memory()))
    return PixelStore(forms, host=host, budget=budget, cache=cache, workers=settings.num_workers)


def this_host(accelerator: RunAccelerator) -> Host:
    """The processes of this machine, as accelerate started them."""
    if accelerator.num_processes == 1:
        return Host()
    mine = str(make_folder()) if accelerator.local_process_index == 0 else None
    with accelerator.current():
        found: Any = gather_object([(_machine(), mine)])
    here = [rank for rank, (machine, _) in enumerate(found) if machine == _machine()]
    folder = Path(found[here[0]][1])
    if len(here) == 1:
        folder.rmdir()
        return Host()
    return Host(here.index(accelerator.process_index), len(here), folder)


def _machine() -> str:
    """Its name, and what tells machines of one name apart."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return socket.gethostname() + (boot.read_text() if boot.exists() else "")
