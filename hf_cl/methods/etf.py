"""A fixed classifier, a simplex equiangular tight frame, and a projector that learns to meet it (Yang et al.: ICLR 2023; the classifier of
Mamba-FSCIL, arXiv 2407.06136)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, Phase, Session, is_head
from hf_cl.losses import DotRegression, MaskedCrossEntropy
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import with_memory
from hf_cl.rules import Plain
from hf_cl.settings import RunSettings

CITATION = """@inproceedings{yang2023neural,
  title={Neural Collapse Inspired Feature-Classifier Alignment for Few-Shot Class Incremental Learning},
  author={Yang, Yibo and Yuan, Haobo and Li, Xiangtai and Lin, Zhouchen and Torr, Philip and Tao, Dacheng},
  booktitle={International Conference on Learning Representations},
  year={2023}
}"""
ROOM = 100
"""Classes of the frame where no number is given."""


def etf(
    *,
    epochs: int = 30,
    session_epochs: int = 10,
    learning_rate: float = 1e-3,
    session_learning_rate: float = 5e-4,
    weight_decay: float = 0.0,
    weight: float = 10.0,
    feature_mixup: float = 0.0,
    warmup_ce_epochs: int = 0,
    head: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
) -> Method:
    """The projector of an `ETFHead` on features of the untouched backbone, trained by dot regression. From session 1 on every class of a
    batch weighs the same, and the mean features of earlier classes are trained on again.

    Args:
        epochs, session_epochs: over the features of session 0, and of each later one.
        learning_rate, session_learning_rate: of Adam, at the start of session 0 and of later ones, falling by a cosine in each.
        weight_decay: decoupled, where it is not 0.
        weight: of the loss.
        feature_mixup: share of the steps that average pairs of features.
        warmup_ce_epochs: of session 0, before the others, on cross-entropy of the cosines: dot regression hardly moves a feature that lies
            opposite to its target.
        head: settings of the head; its type is `etf`.
        memory: the spec of a memory; None: nothing is kept.

    Raises ValueError for a head of another type.
    """
    spec = {"type": "etf", "num_classes_total": ROOM, **(head or {})}
    if spec["type"] != "etf":
        raise ValueError(f"etf has its own head, which a head of type {spec['type']} does not replace; leave `type` out.")
    base = DotRegression(weight, feature_mixup=feature_mixup)
    later = DotRegression(weight, balanced=True, feature_mixup=feature_mixup)

    def phases(session: Session) -> list[Phase]:
        if session.id:
            return [Phase("align", session_epochs, [later], is_head, inputs="features", refresh="phase")]
        warm_up = Phase("warm-up", warmup_ce_epochs, [MaskedCrossEntropy("seen")], is_head, inputs="features", refresh="phase")
        return [warm_up, Phase("align", epochs, [base], is_head, inputs="features", refresh="phase")]

    made = Method(
        name="etf",
        title="fixed simplex targets",
        citation=CITATION,
        adapter=OnePromptConfig(layer_tokens={}, head=spec),
        phases=phases,
        optimizer=falling_adam(
            learning_rate,
            epochs + warmup_ce_epochs,
            weight_decay,
            session_learning_rate=session_learning_rate,
            session_epochs=session_epochs,
        ),
        rule=Plain(),
    )
    return made if memory is None else with_memory(made, memory)


@dataclass
class EtfSettings(RunSettings):
    """Settings of `etf`."""

    epochs: int = 30
    """Epochs over the features of session 0."""
    session_epochs: int = 10
    """Epochs over the features of each later session, and the means of earlier classes."""
    learning_rate: float = 1e-3
    """Of Adam in session 0, falling by a cosine."""
    session_learning_rate: float = 5e-4
    """Of Adam in later sessions, falling by a cosine in each."""
    weight_decay: float = 0.0
    """Above 0: AdamW, decoupled, not on norms and biases."""
    weight: float = 10.0
    """Of the loss."""
    feature_mixup: float = 0.0
    """Share of the steps in which pairs of features are averaged and pulled onto both targets."""
    warmup_ce_epochs: int = 0
    """Epochs of cross-entropy on the cosines before those of session 0."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "etf", "num_classes_total": 100})
    """The head and its settings; num_classes_total is the number of classes that will ever come, or more."""
    memory: dict[str, Any] | None = field(default_factory=lambda: {"type": "class_means"})
    """What is trained on again: mean features of earlier classes, such as '{type: class_means, copies: 10}'; null: nothing is kept."""

    def method(self) -> Method:
        return etf(
            epochs=self.epochs,
            session_epochs=self.session_epochs,
            learning_rate=self.learning_rate,
            session_learning_rate=self.session_learning_rate,
            weight_decay=self.weight_decay,
            weight=self.weight,
            feature_mixup=self.feature_mixup,
            warmup_ce_epochs=self.warmup_ce_epochs,
            head=self.head,
            memory=self.memory,
        )
