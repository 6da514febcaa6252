"""Gradients scaled by how much of what has been seen is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hf_cl.contracts import GradientRule, NamedParameters, Session, Trainer


def session_scale(session: Session) -> float:
    """alpha_t: new classes / classes seen so far; 1 in the base session."""
    return len(session.new_class_names) / len(session.class_names)


class SessionScaled(GradientRule):
    """Another rule's gradient times alpha_t = (new classes) / (classes seen so far): later sessions move the adapter less.

    CPE-CLIP's regularisation (D'Alessandro et al., "Multimodal Parameter-Efficient Few-Shot Class Incremental Learning", ICCVW 2023). The
    factor is applied once per optimizer step, on unscaled gradients, before clipping; the optimizer's weight decay is not scaled. An
    optimizer that normalises its gradient (Adam, AdamW, Lion) does not notice a constant factor: scale the learning rate there.

    Args:
        inner: the rule that computes the gradient.
    """

    def __init__(self, inner: GradientRule) -> None:
        self.inner = inner
        self.alpha = 1.0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self.alpha = session_scale(session)
        self.inner.begin_session(trainer, session)

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        self.inner.begin_epoch(trainer, epoch)

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
        for _, parameter in named_parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.alpha)

    def after_step(self, trainer: Trainer) -> None:
        self.inner.after_step(trainer)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self.inner.end_session(trainer, session)

    def state_dict(self) -> dict[str, Any]:
        return self.inner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.inner.load_state_dict(state)
