"""Settings of every method that trains: whether images of earlier sessions are trained on again, which classes compete, how many steps each
batch gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_cl.contracts import Method, Phase, Session
from hf_cl.hints import build
from hf_cl.memory import MEMORIES
from hf_cl.settings import RunSettings

LossScope = Literal["new", "seen"]
OptimizerLasts = Literal["session", "run"]


@dataclass
class TrainedSettings(RunSettings):
    """Settings of every method that trains."""

    memory: dict[str, Any] | None = None
    """Images of earlier sessions to train on again, such as '{type: exemplars, per_class: 20}'; absent: none is kept (exemplar-free)."""
    memory_dir: str | None = None
    """A folder for copies of these images, where the data will be gone when a run goes on; absent: they are read where the data are."""
    loss_scope: LossScope | None = None
    """Classes that compete in training: a session's `new` ones or all `seen`; absent: `seen` with a memory, else the method's own way."""

    updates_per_batch: int = 1
    """Optimizer steps on each batch before the next one comes, on the same augmented images; 3 on the published online streams."""
    optimizer_lasts: OptimizerLasts = "session"
    """Whether a `session` begins with a new optimizer, or its state goes on through the `run`, as on online streams."""

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.updates_per_batch < 1:
            faults.append(f"updates_per_batch must be at least 1, got {self.updates_per_batch}.")
        if self.memory is not None and self.loss_scope == "new":
            faults.append(
                "loss_scope: new lets a session's own classes compete alone, and the memory brings images of others, which would have no "
                "label among them. Leave loss_scope out with a memory, or say seen."
            )
        if self.memory_dir is not None and self.memory is None:
            faults.append("memory_dir is for the pictures of a memory, and none is set; add --memory '{type: exemplars}'.")
        return faults

    def scope(self, own: LossScope) -> LossScope:
        """The classes that compete, where the method's own way is `own`."""
        return self.loss_scope or ("seen" if self.memory is not None else own)

    def remembering(self, method: Method) -> Method:
        """The method with the memory that these settings name, and the steps that they take. Raises ValueError for one that is none."""
        method = with_updates(method, self.updates_per_batch, self.optimizer_lasts)
        return method if self.memory is None else with_memory(method, self.memory, self.memory_dir)


def with_memory(method: Method, spec: Mapping[str, Any], folder: str | None = None) -> Method:
    """The method, training on images of earlier sessions too.

    Args:
        method: its losses must let all classes compete (`loss_scope: seen`).
        spec: of the memory, `{"type": "exemplars", ...}`.
        folder: for copies of the pictures.

    Raises ValueError with all that is wrong with the spec.
    """
    memory = build("memory", MEMORIES, spec, given={"folder": folder})
    return replace(method, memory=memory, title=f"{method.title or method.name}, {memory.words()}")


def with_updates(method: Method, updates_per_batch: int, optimizer_lasts: OptimizerLasts) -> Method:
    """The method with so many steps on each batch, and an optimizer that lasts so long."""
    if updates_per_batch == 1 and optimizer_lasts == method.optimizer_lasts:
        return method

    def phases(session: Session) -> list[Phase]:
        return [replace(phase, updates_per_batch=updates_per_batch) for phase in method.phases(session)]

    return replace(method, phases=phases, optimizer_lasts=optimizer_lasts)
