"""accelerate as one run has it: with a state of its own, on as many processes as were asked for.

accelerate keeps device, precision and compilation for the whole Python process, and the first `Accelerator` decides for all that follow.
A notebook, or a loop over seeds, makes several runs in one process.
"""

from __future__ import annotations

import atexit
import gc
import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState, SharedDict
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    DynamoBackend,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    TorchDynamoPlugin,
)
from torch.nn.parallel import DistributedDataParallel

from hf_cl.settings import TrainingSettings
from hf_cl.training.deterministic import prepare_deterministic

_STATES = (PartialState, AcceleratorState, GradientState)
"""What accelerate shares between all users in a process."""

_ASKED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How launchers say how many processes there are: torch's and accelerate's, and those of MPI."""

MEET_SECONDS = 180.0
"""How long processes wait for each other at the start."""


class RunAccelerator(Accelerator):
    """The accelerator of one run. What accelerate looks up for the whole process is this run's inside `current`, and as it was outside.

    `compiled_by` is the backend of torch.compile that was asked for ("no": none), `compile_arguments` what `compile_backbone` gives it.

    Args:
        settings: of the run: precision, compilation, device, trackers.

    Raises ValueError where fewer processes came up than were asked for, and where precision or device cannot be had; RuntimeError where the
    processes do not find each other.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._own: dict[type, Any] = {state: SharedDict() for state in _STATES}
        alone = PartialState._shared_state == {}
        with self.current():
            try:
                self._come_up(settings)
            except RuntimeError as error:
                if _asked_for() == 1:
                    raise
                raise RuntimeError(_not_met(error)) from error
        self._check()
        if alone:
            _install(self._own)  # for whoever asks accelerate for the device between two runs
        if self.num_processes > 1:
            atexit.register(leave_group)

    def _come_up(self, settings: TrainingSettings) -> None:
        self.deterministic = settings.deterministic
        if settings.deterministic:
            prepare_deterministic()
        super().__init__(
            mixed_precision=settings.mixed_precision,
            cpu=settings.cpu or not torch.accelerator.is_available(),  # else accelerate starts each process for itself
            log_with=settings.report_to or None,  # pyright: ignore[reportArgumentType]
            project_dir=settings.output_dir,
            dynamo_plugin=_dynamo(settings.compile),
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop weights its micro-batches itself
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=MEET_SECONDS))],
        )
        plugin: Any = self.state.dynamo_plugin
        self.compiled_by, self.compile_arguments = plugin.backend.value.lower(), plugin.to_kwargs()
        plugin.backend = DynamoBackend.NO  # accelerate would compile the growing head too: compile_backbone does what is asked for
        self.ddp_handler = _RestingBuffers()
        if self.num_processes > 1:
            self.wait_for_everyone()
            world: Any = torch.distributed.group.WORLD
            world.set_timeout(timedelta(minutes=30))  # torch's own: a process may evaluate, or write to a slow disk, while others wait

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, accelerate's process-wide state is this run's."""
        before: dict[type, Any] = {state: vars(state)["_shared_state"] for state in _STATES}
        _install(self._own)
        try:
            yield
        finally:
            _install(before)

    @contextmanager
    def autocast(self, autocast_handler: AutocastKwargs | None = None) -> Iterator[None]:
        """As accelerate's, which asks the process-wide state for the precision: hooks and services call it between runs too."""
        with self.current(), super().autocast(autocast_handler):  # pyright: ignore[reportArgumentType]
            yield

    def end_training(self) -> None:
        """End the trackers. The process group stays: the next run in this process talks over it, and it goes when the process ends."""
        for tracker in self.trackers:
            tracker.finish()

    def _check(self) -> None:
        asked, came = _asked_for(), self.num_processes
        if asked > came:
            raise ValueError(
                f"{asked} processes were asked for and {came} came up, each of which would train for itself. Launch with torchrun, or with "
                "accelerate launch --multi_gpu, which starts several processes on CPUs too (recipes/accelerate/)."
            )
        if came == 1 and "WORLD_SIZE" not in os.environ and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
            raise ValueError(
                "accelerate launch was asked for several processes or machines, and started one here, which would train for itself: with "
                "--cpu it leaves that to MPI. Use --config_file recipes/accelerate/two_cpu_processes.yaml (or two_machines.yaml), or "
                "torchrun. If one process is what you want, unset MASTER_ADDR."
            )
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("mixed_precision fp16 needs a GPU: on a CPU torch has no scaled fp16. Take bf16 or no.")
        if torch.distributed.is_initialized() and came > 1 and self.state.backend != torch.distributed.get_backend():
            raise ValueError(
                f"The processes talk over {torch.distributed.get_backend()} since the first run, and this one needs {self.state.backend}: "
                "runs on CPUs and on GPUs need processes of their own."
            )


def _install(states: dict[type, Any]) -> None:
    for state, shared in states.items():
        state._shared_state = shared  # pyright: ignore[reportAttributeAccessIssue]


def _dynamo(compile_model: bool | None) -> TorchDynamoPlugin | None:
    """None: what `accelerate launch` says."""
    if compile_model is None:
        return None
    return TorchDynamoPlugin(backend=DynamoBackend.INDUCTOR if compile_model else DynamoBackend.NO)


def _not_met(error: RuntimeError) -> str:
    first = os.environ.get("MASTER_ADDR", "the first one")
    return (
        f"The processes did not find each other within {MEET_SECONDS:.0f} s. Where a machine has several networks, name the one that joins "
        "the machines, by the name it has there (ip addr lists them): export GLOO_SOCKET_IFNAME=eth0 on CPUs, NCCL_SOCKET_IFNAME=eth0 on "
        f"GPUs. And see that every machine reaches {first} and the others at all ports. torch says: {str(error).splitlines()[0]}"
    )


def _asked_for() -> int:
    return max((int(os.environ[name]) for name in _ASKED if os.environ.get(name, "").isdigit()), default=1)


@dataclass
class _RestingBuffers(DistributedDataParallelKwargs):
    """DDP leaves buffers alone in a forward pass: they are equal everywhere, and SARA would check new ones.

    torch 2.14 gave the switch another name, and warns of the old one.
    """

    def to_kwargs(self) -> dict[str, Any]:
        known = inspect.signature(DistributedDataParallel).parameters
        return {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}


def leave_group() -> None:
    """Leave the process group while Python is whole.

    A thread of gloo's may hold the last tensors of a finished call a little longer. If Python has begun to end by then, letting go of them
    ends the process with "terminate called without an active exception" (SIGABRT), whatever it has done. Without a group its threads end;
    wrappers of DDP that wait for the garbage collector hold the group too.
    """
    gc.collect()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
