"""Other states of the adapter: the teacher, and the student and teacher as they were at the end of session 0.

All are plain tensors under the names of the parameters they stand for, relative to the base model. They belong to training: no parameter,
no buffer, so neither the optimizer nor DDP nor an adapter file knows them. Nor does `.to(device)`: `follow` moves them when they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.async_lora.shared_pass import SharedPass

State = dict[str, Tensor]
LiveTensors = Mapping[str, Tensor]
"""The student's own parameters and buffers, by name."""


@dataclass
class RoleStates:
    """The states of one adapter."""

    pretrained: State = field(default_factory=dict)
    """The head's pooler as the base checkpoint has it; empty where the head has none."""
    teacher: State | None = None
    """Moving average of what is unfrozen, in float32. None until something is: the teacher is the pre-trained model then."""
    base: State | None = None
    """The student at the end of session 0."""
    base_teacher: State | None = None
    """The teacher at the end of session 0."""
    shared: SharedPass = field(default_factory=SharedPass)
    """What roles without LoRA compute once for all of them."""

    def follow(self, device: torch.device) -> None:
        """Bring every tensor to the model's device. Roles go on sharing what they share, but with the model no more."""
        roles = ("pretrained", "teacher", "base", "base_teacher")
        away = {id(t): t for role in roles for t in (getattr(self, role) or {}).values() if t.device != device}
        if not away:
            return
        moved = {key: tensor.to(device) for key, tensor in away.items()}
        for role in roles:
            state: State | None = getattr(self, role)
            setattr(self, role, state and {name: moved.get(id(t), t) for name, t in state.items()})

    @torch.no_grad()
    def start_teacher(self, unfrozen: LiveTensors) -> None:
        """Begin the average at the student's present values."""
        self.teacher = {name: tensor.detach().to(torch.float32, copy=True) for name, tensor in unfrozen.items()}

    @torch.no_grad()
    def update_teacher(self, unfrozen: LiveTensors, decay: float) -> None:
        """teacher <- decay * teacher + (1 - decay) * student. In float32: a step of 1e-3 would be lost in bfloat16."""
        if self.teacher:
            students = [unfrozen[name].to(torch.float32) for name in self.teacher]
            torch._foreach_lerp_(list(self.teacher.values()), students, 1 - decay)  # on a GPU one kernel for all

    @torch.no_grad()
    def keep_student(self, student: LiveTensors, unfrozen: LiveTensors, *, clone: bool) -> None:
        """Hold the present student as `base`. Without `clone` it shares the storage of what is unfrozen."""
        self.base = {name: t.detach().clone() if clone or name not in unfrozen else t.detach() for name, t in student.items()}

    @torch.no_grad()
    def keep_teacher(self, *, clone: bool) -> None:
        """Hold the present teacher as `base_teacher`. Without `clone` it shares the teacher's storage."""
        self.base_teacher = {name: t.clone() if clone else t for name, t in self._present_teacher.items()}

    @property
    def _present_teacher(self) -> State:
        return self.pretrained if self.teacher is None else self.teacher

    def pack(self, student: LiveTensors) -> dict[str, Any]:
        """For a checkpoint. What shares its storage with the student or the teacher is left out."""
        return {
            "teacher": self.teacher,
            "base": None if self.base is None else _unshared(self.base, student),
            "base_teacher": None if self.base_teacher is None else _unshared(self.base_teacher, self._present_teacher),
        }

    def unpack(self, packed: Mapping[str, Any], student: LiveTensors) -> None:
        """Inverse of `pack`, once the student has its values back."""
        device = next(iter(student.values())).device
        self.follow(device)
        states = {role: None if state is None else {n: t.to(device) for n, t in state.items()} for role, state in packed.items()}
        self.teacher = states["teacher"]
        self.base = None if states["base"] is None else {name: t.detach() for name, t in student.items()} | states["base"]
        self.base_teacher = None if states["base_teacher"] is None else self._present_teacher | states["base_teacher"]


def _unshared(state: State, live: LiveTensors) -> State:
    return {name: t for name, t in state.items() if name not in live or t.data_ptr() != live[name].data_ptr()}


@contextmanager
def swapped(model: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Run `model` with other tensors in the places of its parameters and buffers.

    The places change, the parameters do not: a backward pass that is still open is not disturbed.
    """
    originals = []
    try:
        for name, tensor in state.items():
            path, _, attribute = name.rpartition(".")
            module = model.get_submodule(path)
            places = module._parameters if attribute in module._parameters else module._buffers
            originals.append((places, attribute, places[attribute]))
            places[attribute] = tensor  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for places, attribute, tensor in reversed(originals):
            places[attribute] = tensor
