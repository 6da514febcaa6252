"""PRD: prototype-sample relation distillation (Asadi, Davari, Mudur, Aljundi, Belilovsky: ICML 2023, arXiv 2303.14771; code:
github.com/naderAsadi/Probing-Continual-Learning)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters.glad import plain_lora
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, is_head
from hf_cl.losses import ProjectedContrast, Projector, PrototypeLoss, RelationDistillation, SupervisedContrastive
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.schedules import cosine
from hf_cl.parts import Prototypes
from hf_cl.rules import Plain

CITATION = """@inproceedings{asadi2023prd,
  title={Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning},
  author={Asadi, Nader and Davari, MohammadReza and Mudur, Sudhir and Aljundi, Rahaf and Belilovsky, Eugene},
  booktitle={International Conference on Machine Learning},
  year={2023}
}"""
BASE_TEMPERATURE = 0.07
"""Of the factor that the official contrast carries; the weights of the other terms are relative to it."""
Axis = Literal["class", "sample"]


def prd(
    *,
    epochs: int = 20,
    base_epochs: int | None = None,
    learning_rate: float = 0.02,
    prototype_lr: float = 0.01,
    weight_decay: float = 1e-4,
    r: int = 8,
    temperature: float = 0.1,
    projector: Sequence[int] = (512, 128),
    prototype_weight: float = 2.0,
    relation_weight: float = 4.0,
    relation_temperature: float = 1.0,
    axis: Axis = "class",
    head: Mapping[str, Any] | None = None,
) -> Method:
    """LoRA trained by a supervised contrast of two views, without a classifier's gradient; rows of a cosine head are class prototypes.

    Prototypes of the session are pulled to the embeddings of their class (`PrototypeLoss`); those of earlier sessions, whose images are
    gone, follow by what new images say of them (`RelationDistillation`), which holds the adapter too. A row begins as the mean embedding of
    its class. Here as in the official code: SGD with momentum 0.9, prototypes with neither momentum nor decay. Ours are LoRA in the place
    of a ResNet, rates that fall by a cosine per epoch, rows for the classes seen alone, and the previous model in eval mode.

    Args:
        epochs: of each session.
        base_epochs: of session 0; None: as of the others. The paper trains it twice as long.
        learning_rate: of LoRA and projector.
        prototype_lr: of the prototypes.
        weight_decay: of LoRA and projector.
        r: rank.
        temperature: of the contrast.
        projector: widths of the projection head before the contrast; (): none.
        prototype_weight, relation_weight: of the two terms beside the contrast.
        relation_temperature, axis: of `RelationDistillation`.
        head: its spec, of type cosine; None: cosine.

    Raises ValueError for settings that the losses refuse.
    """
    projection = Projector(projector, decay=None) if projector else None
    shared: dict[str, Any] = {"temperature": temperature, "base_temperature": BASE_TEMPERATURE}
    contrast = SupervisedContrastive([], **shared) if projection is None else ProjectedContrast([], projector=projection, **shared)
    relation = RelationDistillation(relation_weight, relation_temperature, axis)
    losses: list[LossTerm] = [contrast, PrototypeLoss(prototype_weight)]

    def phases(session: Session) -> list[Phase]:
        count = epochs if session.id > 0 or base_epochs is None else base_epochs
        return [Phase("train", count, [*losses, relation] if session.id > 0 else losses, _trains)]

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        count = epochs if session.id > 0 or base_epochs is None else base_epochs
        encoder = {"params": [p for name, p in named_parameters if not is_head(name)], "momentum": 0.9, "weight_decay": weight_decay}
        rows = {"params": [p for name, p in named_parameters if is_head(name) and _trains(name)]}
        return torch.optim.SGD([encoder, rows], lr=learning_rate), cosine([learning_rate, prototype_lr], count)

    return Method(
        name="prd",
        title="PRD",
        citation=CITATION,
        adapter=plain_lora(r=r, head=dict(head or {"type": "cosine"})),
        phases=phases,
        optimizer=optimizer,
        rule=Plain(),
        parts=[*([] if projection is None else [projection]), Prototypes(), relation],
    )


def _trains(name: str) -> bool:
    """No loss of PRD reads the scale of the cosines."""
    return name != "head.scale"


@dataclass
class PrdSettings(AdapterSettings):
    """Settings of `prd`."""

    batch_size: int = 64
    """Images per optimizer step; each goes through the model in two views."""
    augmentation: str = "strong"
    """A name of `hf_cl.images.AUGMENTATIONS`; two draws of it are the views of the contrast."""
    epochs: int = 20
    """Epochs of each session."""
    base_epochs: int | None = None
    """Epochs of session 0; absent: as of the others."""
    learning_rate: float = 0.02
    """Of LoRA and projector; SGD with momentum 0.9."""
    prototype_lr: float = 0.01
    """Of the prototypes; SGD without momentum and decay."""
    weight_decay: float = 1e-4
    """Of LoRA and projector."""
    r: int = 8
    """Rank."""
    temperature: float = 0.1
    """Of the contrast."""
    projector: list[int] = field(default_factory=lambda: [512, 128])
    """Widths of the projection head before the contrast; []: none."""
    prototype_weight: float = 2.0
    """Weight of the term that pulls prototypes to their class."""
    relation_weight: float = 4.0
    """Weight of the relation distillation, for each earlier session."""
    relation_temperature: float = 1.0
    """Of the relation distillation."""
    axis: Axis = "class"
    """What its distributions are over: the classes of an earlier session, or the samples of the batch."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "cosine"})
    """The head, of type cosine, and its settings."""

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.loss_scope is not None:
            faults.append("loss_scope: prd has no cross-entropy in which classes compete; leave the setting out.")
        return faults

    def method(self) -> Method:
        made = prd(
            epochs=self.epochs,
            base_epochs=self.base_epochs,
            learning_rate=self.learning_rate,
            prototype_lr=self.prototype_lr,
            weight_decay=self.weight_decay,
            r=self.r,
            temperature=self.temperature,
            projector=self.projector,
            prototype_weight=self.prototype_weight,
            relation_weight=self.relation_weight,
            relation_temperature=self.relation_temperature,
            axis=self.axis,
            head=self.head,
        )
        return self.completed(made)
