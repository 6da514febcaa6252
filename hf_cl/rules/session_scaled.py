"""Gradients scaled by how much of what has been seen is new."""

from __future__ import annotations

from hf_cl.contracts import GradientRule, NamedParameters, Session, Trainer
from hf_cl.rules.around import AroundRule

NO_NEW_CLASS = "steps that are scaled by new classes / classes seen would train nothing there"
"""Why sessions without a new class are refused, in a clause."""


def session_scale(session: Session) -> float:
    """alpha_t: new classes / classes seen so far; 1 in the base session.

    Raises ValueError for a session without a new class, in which nothing would train.
    """
    if not session.new_class_names:
        raise ValueError(f"Session {session.id} brings no new class, and {NO_NEW_CLASS}.")
    return len(session.new_class_names) / len(session.class_names)


class SessionScaled(AroundRule):
    """Another rule's gradient times alpha_t = (new classes) / (classes seen so far): later sessions move the adapter less.

    CPE-CLIP's regularisation (D'Alessandro et al., "Multimodal Parameter-Efficient Few-Shot Class Incremental Learning", ICCVW 2023). The
    factor is applied once per optimizer step, on unscaled gradients, before clipping; the optimizer's weight decay is not scaled. An
    optimizer that normalises its gradient (Adam, AdamW, Lion) does not notice a constant factor: scale the learning rate there.

    Args:
        inner: the rule that computes the gradient.
    """

    new_classes_only = NO_NEW_CLASS

    def __init__(self, inner: GradientRule) -> None:
        super().__init__(inner)
        self.alpha = 1.0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self.alpha = session_scale(session)
        super().begin_session(trainer, session)

    def transform(self, named_parameters: NamedParameters) -> None:
        super().transform(named_parameters)
        for _, parameter in named_parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(self.alpha)
