"""PELA: factors of a base, trained against the original (Guo et al.: CVPR 2024, arXiv 2310.10700; code: github.com/guoyang9/PELA).

The paper trains on ImageNet, with all other weights of the model too. Factors and biases alone, classes that come in sessions and a fitted
head are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_cl.adapters import LowRankConfig
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import FeatureMatch, MaskedCrossEntropy, WeightDeviation
from hf_cl.methods.adapt_sessions import AdapterSettings, AdaptSessions, is_fitted
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.optimizers import adam
from hf_cl.methods.schedules import warmed
from hf_cl.methods.with_memory import LossScope
from hf_cl.rules import Plain

CITATION = """@inproceedings{guo2024pela,
  title={{PELA}: Learning Parameter-Efficient Models with Low-Rank Approximation},
  author={Guo, Yangyang and Mao, Guangzhi and Hu, Zhiyuan and Zhang, Yinwei and Nie, Liqiang},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024}
}"""


def pela(
    *,
    ratio: float = 2.0,
    epochs: int = 50,
    warmup_epochs: int = 1,
    learning_rate: float = 6.25e-5,
    weight_decay: float = 0.05,
    task: bool = True,
    feature_weight: float = 1.0,
    deviation_weight: float = 0.0,
    deviation_eps: float = 1e-3,
    head: Mapping[str, Any] | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """Factors in the place of the Linears of attention and MLP, trained to give what the original gives, and to tell the classes apart.

    Args:
        ratio: by which each matrix shrinks.
        epochs: of each session that trains.
        warmup_epochs: of them, in which the rate rises.
        learning_rate, weight_decay: of AdamW; biases do not decay.
        task: whether cross-entropy is part of the loss. Without, labels are not read in training.
        feature_weight: of the distance between the outputs of embedding and blocks.
        deviation_weight, deviation_eps: of the penalty on the largest error of a weight, and the error that it leaves alone; 0 is off.
        head: its spec; None: gaussian.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".

    Raises ValueError for a text head, without the task loss under a head that is not fitted, and where nothing is left to train by.
    """
    spec = dict(head or {"type": "gaussian"})
    config = LowRankConfig(ratio=ratio, head=spec)
    if config.has_text_head:
        raise ValueError("PELA makes an image tower smaller, and a text head needs both towers. Say --head '{type: gaussian}'.")
    if not task and not is_fitted(spec):
        raise ValueError(f"Without the task loss nothing trains a {spec['type']} head. Say --head '{{type: gaussian}}'.")
    losses: list[LossTerm] = [MaskedCrossEntropy(loss_scope)] if task else []
    if feature_weight:
        losses.append(FeatureMatch(feature_weight))
    if deviation_weight:
        losses.append(WeightDeviation(deviation_weight, deviation_eps))
    if not losses:
        raise ValueError("Nothing is left to train by: task is false, and feature_weight and deviation_weight are 0.")

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        schedule = warmed(learning_rate, warmup_epochs, epochs, session.steps_per_epoch())
        return adam(named_parameters, learning_rate, schedule, weight_decay)

    return Method(
        name="pela",
        title=f"PELA, ratio {ratio:g}",
        citation=CITATION,
        adapter=config,
        phases=lambda session: [Phase("train", epochs, losses, everything)],
        optimizer=optimizer,
        rule=Plain(),
        parts=drift_parts(spec),
    )


@dataclass
class PelaSettings(AdapterSettings):
    """Settings of the recipe `pela`; the losses' weights, epochs and rates are those published for DeiT."""

    ratio: float = 2.0
    """The factors of a matrix have 1/ratio of its entries."""
    epochs: int = 50
    """Epochs of each session that trains the factors."""
    warmup_epochs: int = 1
    """Of them, in which the learning rate rises."""
    batch_size: int = 256
    """Images per optimizer step."""
    learning_rate: float = 6.25e-5
    """Of factors, biases and head, falling by a cosine."""
    weight_decay: float = 0.05
    """Of AdamW; biases do not decay."""
    task: bool = True
    """Cross-entropy beside the distillation; `false`: no label is read in training, for pictures that have none."""
    feature_weight: float = 1.0
    """Of the distance to what embedding and blocks of the original give."""
    deviation_weight: float = 0.0
    """Of the penalty on the largest error of a weight; 0: off (published: 1 for ALBEF)."""
    deviation_eps: float = 1e-3
    """The error that this penalty draws towards."""
    adapt_sessions: AdaptSessions = "first"
    """Sessions that train the factors: the `first`, whose stream should hold all images there are, or `all`."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "gaussian"})
    """The head and its settings."""

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.warmup_epochs > self.epochs:
            faults.append(f"warmup_epochs ({self.warmup_epochs}) are part of the epochs ({self.epochs}) and cannot be more.")
        return faults

    def method(self) -> Method:
        """The method these settings describe."""
        made = pela(
            ratio=self.ratio,
            epochs=self.epochs,
            warmup_epochs=self.warmup_epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            task=self.task,
            feature_weight=self.feature_weight,
            deviation_weight=self.deviation_weight,
            deviation_eps=self.deviation_eps,
            head=self.head,
            loss_scope=self.scope("new"),
        )
        return self.completed(made)
