"""A rule that changes the gradient of another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters, Session, Trainer


class AroundRule(GradientRule):
    """Base of rules that leave the computing, the hooks and the state to `inner`, and write a `transform` that begins with its one.

    Args:
        inner: the rule that computes the gradient.
    """

    def __init__(self, inner: GradientRule) -> None:
        self.inner = inner
        self.new_classes_only = self.new_classes_only or inner.new_classes_only

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        return self.inner.compute(closures, named_parameters, accelerator, model)

    def transform(self, named_parameters: NamedParameters) -> None:
        self.inner.transform(named_parameters)

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self.inner.begin_session(trainer, session)

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        self.inner.begin_epoch(trainer, epoch)

    def after_step(self, trainer: Trainer) -> None:
        self.inner.after_step(trainer)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self.inner.end_session(trainer, session)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)
