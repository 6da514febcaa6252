"""SLCA: a slow learner with classifier alignment (Zhang et al.: ICCV 2023, arXiv 2303.05118, and arXiv 2408.08295; code:
github.com/GengDavid/SLCA)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_cl.adapters.glad import plain_lora
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, everything, is_head
from hf_cl.hints import build
from hf_cl.losses import MaskedCrossEntropy, SymmetricCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.schedules import cosine_to, stepped
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import PARTS, DriftMap, OldRowsRest
from hf_cl.parts.drift_map import Kind
from hf_cl.rules import Plain

CITATION = """@inproceedings{zhang2023slca,
  title={{SLCA}: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model},
  author={Zhang, Gengwei and Wang, Liyuan and Kang, Guoliang and Chen, Ling and Wei, Yunchao},
  booktitle={International Conference on Computer Vision},
  year={2023}
}"""
FALL = 0.1
"""Of the rate in a session: to this share of where it begins."""


def slca(
    *,
    epochs: int = 20,
    learning_rate: float = 0.01,
    adapter_lr_scale: float = 0.1,
    first_adapter_lr_scale: float | None = None,
    decay_at: float | None = 0.9,
    weight_decay: float = 5e-4,
    r: int = 8,
    reverse_weight: float = 0.0,
    head: Mapping[str, Any] | None = None,
    alignment: Mapping[str, Any] | None = None,
    drift_map: Kind = "none",
    loss_scope: LossScope = "new",
) -> Method:
    """LoRA at a slow rate, each session's rows of a linear head among themselves, then all rows aligned on features drawn from class
    Gaussians (`ClassifierAlignment`).

    The paper trains the whole backbone at a hundredth of the head's rate, SLCA++ LoRA, norms and biases at a tenth; here it is LoRA alone.
    SLCA++ is `adapter_lr_scale=0.1, first_adapter_lr_scale=0.5, decay_at=None, reverse_weight=0.1`, a head with `age_scale: 0.02`, and the
    alignment `{mean_shrink: 0, feature_scale_jitter: 0.01}`: the config `plus`.

    Args:
        epochs: of each session.
        learning_rate: of the head; SGD with momentum 0.9.
        adapter_lr_scale: the adapter's rate over the head's.
        first_adapter_lr_scale: the same in session 0; None: as in the others.
        decay_at: share of a session's epochs after which the rates fall to a tenth; None: a cosine to a tenth.
        weight_decay: of both.
        r: rank.
        reverse_weight: of the reverse direction of the cross-entropy, which SLCA++ adds.
        head: the head's spec, of type linear; None: linear.
        alignment: arguments of `ClassifierAlignment`.
        drift_map: how class statistics follow the features; the paper lets them lie.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".

    Raises ValueError for settings of the alignment that it refuses, and where `decay_at` is no share.
    """
    if decay_at is not None and not 0 < decay_at < 1:
        raise ValueError(f"slca: decay_at is a share of a session's epochs, between 0 and 1, or null for a cosine; got {decay_at}.")
    loss: LossTerm = SymmetricCrossEntropy(1.0, reverse_weight, loss_scope) if reverse_weight else MaskedCrossEntropy(loss_scope)

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        scale = first_adapter_lr_scale if session.id == 0 else None
        rates = [learning_rate * (adapter_lr_scale if scale is None else scale), learning_rate]
        slow = [p for name, p in named_parameters if not is_head(name)]
        fast = [p for name, p in named_parameters if is_head(name)]
        groups = [{"params": slow, "lr": rates[0]}, {"params": fast, "lr": rates[1]}]
        sgd = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
        return sgd, cosine_to(rates, epochs, FALL) if decay_at is None else stepped(rates, round(decay_at * epochs), FALL)

    return Method(
        name="slca",
        title="SLCA",
        citation=CITATION,
        adapter=plain_lora(r=r, head=dict(head or {"type": "linear"})),
        phases=lambda session: [Phase("train", epochs, [loss], everything)],
        optimizer=optimizer,
        rule=Plain(),
        parts=[build("part", PARTS, {"type": "classifier_alignment", **(alignment or {})}), OldRowsRest(), DriftMap(drift_map)],
    )


@dataclass
class SlcaSettings(AdapterSettings):
    """Settings of `slca`."""

    epochs: int = 20
    """Epochs of each session."""
    learning_rate: float = 0.01
    """Of the head."""
    adapter_lr_scale: float = 0.1
    """The adapter's rate over the head's."""
    first_adapter_lr_scale: float | None = None
    """The same in session 0; absent: as in the others."""
    decay_at: float | None = 0.9
    """Share of a session's epochs after which the rates fall to a tenth; null: a cosine to a tenth."""
    weight_decay: float = 5e-4
    """Of adapter and head."""
    r: int = 8
    """Rank."""
    reverse_weight: float = 0.0
    """Weight of the reverse direction of the cross-entropy (SLCA++: 0.1)."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head, of type linear, and its settings."""
    alignment: dict[str, Any] = field(default_factory=dict)
    """Arguments of the part classifier_alignment, such as '{epochs: 10}'."""
    drift_map: Kind = "none"
    """How class statistics follow the features before rows are aligned: none, mean, sdc, ridge, procrustes, functional."""

    def method(self) -> Method:
        made = slca(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            adapter_lr_scale=self.adapter_lr_scale,
            first_adapter_lr_scale=self.first_adapter_lr_scale,
            decay_at=self.decay_at,
            weight_decay=self.weight_decay,
            r=self.r,
            reverse_weight=self.reverse_weight,
            head=self.head,
            alignment=self.alignment,
            drift_map=self.drift_map,
            loss_scope=self.scope("new"),
        )
        return self.completed(made)
