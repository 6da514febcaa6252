"""CPE-CLIP: multimodal prompts for few-shot class-incremental learning (D'Alessandro et al., ICCVW 2023; code: github.com/neuraptic/cpe-clip)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import torch

from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.contracts import Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.rules import Plain, SessionScaled, session_scale

logger = logging.getLogger(__name__)

RATES = (0.001, 0.00298, 0.00496, 0.00694, 0.00892, 0.0109)
"""Learning rates of a session's epochs, as the official code runs them: its warm-up of 50 epochs, 0.001 + 0.099 e / 50, never ends."""


def cpe_clip(
    *,
    adapter: CPEClipConfig | None = None,
    base_epochs: int = 5,
    session_epochs: int = 5,
    lr_per_epoch: Sequence[float] = RATES,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-5,
    regularization: Literal["balance", "none", "freeze"] = "balance",
    regularization_scale: Literal["grad", "lr"] | None = None,
    loss_scope: Literal["new", "seen"] = "new",
) -> Method:
    """CPE-CLIP's prompts, trained with cross-entropy among the current session's classes. The defaults are the official CIFAR-100 setting.

    Each session starts a new optimizer. Under "balance" a session's gradient is scaled by alpha_t = new classes / classes seen so far.

    Args:
        adapter: the prompts; None: two per layer in both towers.
        base_epochs, session_epochs: epochs of session 0 and of each later one.
        lr_per_epoch: learning rate of each epoch of a session, the same list in every session.
        optimizer, momentum, weight_decay: SGD with (coupled) weight decay, or AdamW, which has no momentum of that name.
        regularization: "balance", "none", or "freeze" (nothing trains after session 0).
        regularization_scale: what alpha_t multiplies: the gradient ("grad", the default with SGD) or the learning rate ("lr", the default
            with AdamW, which would not notice the other).
        loss_scope: classes that compete in training: the session's "new" ones, or all "seen". A stream with one class per session needs
            "seen": among one class the loss is zero.

    Raises ValueError for "grad" with AdamW, unknown settings, and a list of rates that is shorter than a session.
    """
    scale = regularization_scale or ("grad" if optimizer == "sgd" else "lr")
    _check(optimizer, regularization, scale)
    if len(lr_per_epoch) < max(base_epochs, session_epochs):
        raise ValueError(f"lr_per_epoch has {len(lr_per_epoch)} rates for sessions of up to {max(base_epochs, session_epochs)} epochs.")
    cross_entropy = MaskedCrossEntropy(loss_scope)
    balanced = regularization == "balance"

    def phases(session: Session) -> list[Phase]:
        epochs = base_epochs if session.id == 0 else 0 if regularization == "freeze" else session_epochs
        if epochs and len(session.new_class_names) == 1 and loss_scope == "new":
            logger.warning(
                "Session %d has one class: its loss among the new classes is zero, and nothing is learned. Use loss_scope='seen'.",
                session.id,
            )
        return [Phase("train", epochs, [cross_entropy], everything)]

    def make_optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        parameters = [p for _, p in named_parameters]
        if optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(parameters, lr=lr_per_epoch[0], momentum=momentum, weight_decay=weight_decay)
        else:
            made = torch.optim.AdamW(parameters, lr=lr_per_epoch[0], weight_decay=weight_decay)
        factor = session_scale(session) if balanced and scale == "lr" else 1.0
        return made, lambda epoch, step: [factor * lr_per_epoch[epoch]]

    return Method(
        name="cpe_clip",
        adapter=adapter or CPEClipConfig(head=dict(TEXT_HEAD)),
        phases=phases,
        optimizer=make_optimizer,
        rule=SessionScaled(Plain()) if balanced and scale == "grad" else Plain(),
    )


def _check(optimizer: str, regularization: str, scale: str) -> None:
    for name, value, allowed in (
        ("optimizer", optimizer, ("sgd", "adamw")),
        ("regularization", regularization, ("balance", "none", "freeze")),
        ("regularization_scale", scale, ("grad", "lr")),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
    if scale == "grad" and optimizer != "sgd":
        raise ValueError(f"{optimizer} normalises its gradient, so that scaling it changes nothing. Use regularization_scale='lr'.")
