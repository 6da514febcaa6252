"""OVOR: OnePrompt with Virtual Outlier Regularization (Huang, Chen, Hsu: ICLR 2024; code: github.com/jpmorganchase/ovor)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, NamedParameters, Phase, Schedule, Session, everything, is_head
from hf_cl.losses import MaskedCrossEntropy, VirtualOutliers
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.optimizers import adam
from hf_cl.methods.schedules import lagging_cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts.drift_map import Kind
from hf_cl.rules import Plain

CITATION = """@inproceedings{huang2024ovor,
  title={{OVOR}: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning},
  author={Huang, Wei-Cheng and Chen, Chun-Fu and Hsu, Hsiang},
  booktitle={International Conference on Learning Representations},
  year={2024}
}"""


def ovor(
    *,
    epochs: int = 16,
    vor_epochs: int = 4,
    warmup_epochs: int = 0,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    layer_tokens: Mapping[int, int] | None = None,
    head: Mapping[str, Any] | None = None,
    outliers: VirtualOutliers | None = None,
    drift_map: Kind = "ridge",
    loss_scope: LossScope = "new",
) -> Method:
    """OnePrompt, then the head against virtual outliers. Defaults: the official CIFAR-100 setting; `vor_epochs=0` is OnePrompt alone.

    A session is (from session 1 on) `warmup_epochs` of the head on frozen features, `epochs` of prompt and head on images, `vor_epochs` of
    the head on features with outliers. One Adam serves all of them; a frozen parameter has no gradient and is skipped.

    Args:
        epochs, vor_epochs, warmup_epochs: length of the phases.
        learning_rate: of Adam, at the start of each session.
        weight_decay: above 0 that of AdamW.
        layer_tokens: prefix rows per layer; None: OVOR's five layers.
        head: the head's spec; None: the official linear head.
        outliers: the regularizer; None: the official settings in mode `npos`.
        drift_map: how statistics of a head that is fitted follow the features, as `DriftMap`'s kind.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".
    """
    cross_entropy = MaskedCrossEntropy(loss_scope)
    outliers = outliers or VirtualOutliers()

    def phases(session: Session) -> list[Phase]:
        warmup = Phase("warmup", warmup_epochs if session.id > 0 else 0, [cross_entropy], is_head, inputs="features")
        train = Phase("train", epochs, [cross_entropy], everything)
        vor = Phase("vor", vor_epochs, [cross_entropy, outliers], is_head, inputs="features")
        return [warmup, train, vor]

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        schedule = lagging_cosine(learning_rate, warmup_epochs + epochs + vor_epochs)
        return adam(named_parameters, learning_rate, schedule, weight_decay)

    return Method(
        name="ovor",
        adapter=OnePromptConfig(layer_tokens=None if layer_tokens is None else dict(layer_tokens), head=dict(head or {"type": "linear"})),
        phases=phases,
        optimizer=optimizer,
        rule=Plain(),
        parts=drift_parts(head, drift_map),
        title="OVOR" if vor_epochs else "OnePrompt",
        citation=CITATION,
    )


@dataclass
class OvorSettings(AdapterSettings):
    """Settings of the recipe `ovor`; the defaults are the official CIFAR-100 setting."""

    epochs: int = 16
    """Epochs of prompt and head on images."""
    vor_epochs: int = 4
    """Epochs of the head on features with virtual outliers; 0 is OnePrompt alone."""
    warmup_epochs: int = 0
    """Epochs of the head alone at the start of each session but the first."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    weight_decay: float = 0.0
    """Above 0: AdamW, decoupled, on adapter and head, not on norms and biases."""
    layer_tokens: dict[int, int] | None = None
    """Prefix rows per layer (from 0); absent: OVOR's five layers."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings: linear (official), cosine, prototype."""
    outlier_mode: Literal["npos", "official"] = "npos"
    """How virtual outliers are chosen."""
    outlier_std: float = 0.1
    """Standard deviation of the draws around boundary features."""
    outlier_weight: float = 0.1
    """Weight of the regularizer."""
    drift_map: Kind = "ridge"
    """How class statistics of heads that are fitted follow the features: none, mean, sdc, ridge, procrustes, functional."""

    def method(self) -> Method:
        """The method these settings describe."""
        return self.completed(
            ovor(
                epochs=self.epochs,
                vor_epochs=self.vor_epochs,
                warmup_epochs=self.warmup_epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                layer_tokens=self.layer_tokens,
                head=self.head,
                outliers=VirtualOutliers(mode=self.outlier_mode, std=self.outlier_std, weight=self.outlier_weight),
                drift_map=self.drift_map,
                loss_scope=self.scope("new"),
            )
        )
