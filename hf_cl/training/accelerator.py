"""accelerate as one run has it: with a state of its own, on as many processes as were asked for.

accelerate keeps device, precision and compilation for the whole Python process, and the first `Accelerator` decides for all that follow.
A notebook, or a loop over seeds, makes several runs in one process.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState, SharedDict
from accelerate.utils import DistributedDataParallelKwargs, DynamoBackend, GradientAccumulationPlugin, TorchDynamoPlugin

from hf_cl.settings import TrainingSettings

_STATES = (PartialState, AcceleratorState, GradientState)
"""What accelerate shares between all users in a process."""

_ASKED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""How launchers say how many processes there are: torch's and accelerate's, and those of MPI."""


class RunAccelerator(Accelerator):
    """The accelerator of one run. What accelerate looks up for the whole process is this run's inside `current`, and as it was outside.

    Args:
        settings: of the run: precision, compilation, device, trackers.

    Raises ValueError where fewer processes came up than were asked for, and where precision or device cannot be had.
    """

    def __init__(self, settings: TrainingSettings) -> None:
        self._own: dict[type, Any] = {state: SharedDict() for state in _STATES}
        alone = PartialState._shared_state == {}
        cpu = settings.cpu or not torch.accelerator.is_available()  # accelerate starts processes without an accelerator only if told so
        with self.current():
            super().__init__(
                mixed_precision=settings.mixed_precision,
                cpu=cpu,
                log_with=settings.report_to or None,  # pyright: ignore[reportArgumentType]
                project_dir=settings.output_dir,
                dynamo_plugin=_dynamo(settings.compile),
                gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # the loop weights its micro-batches itself
                kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # they are equal everywhere; SARA checks new ones
            )
        self._check()
        if alone:
            _install(self._own)  # for whoever asks accelerate for the device between two runs
        if self.num_processes > 1:
            atexit.register(_leave_group)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Inside, accelerate's process-wide state is this run's."""
        before = {state: vars(state)["_shared_state"] for state in _STATES}
        _install(self._own)
        try:
            yield
        finally:
            _install(before)

    @property
    def compiled_by(self) -> str:
        """The backend of torch.compile that models are prepared with; "no": none."""
        return self.state.dynamo_plugin.backend.value.lower()

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
                "--cpu it leaves that to MPI. Use --config_file recipes/accelerate/two_cpu_processes.yaml (or two_machines.yaml), or torchrun. "
                "If one process is what you want, unset MASTER_ADDR."
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


def _asked_for() -> int:
    return max((int(os.environ[name]) for name in _ASKED if os.environ.get(name, "").isdigit()), default=1)


def _leave_group() -> None:
    """Leave the process group while Python is whole: a thread of gloo's that lets go of a tensor later aborts the process."""
    gc.collect()  # of wrappers that hold the group
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
