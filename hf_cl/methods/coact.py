"""CoACT: consistency-guided asynchronous contrastive tuning (Roy, Dolatabadi, Afkanpour, Etemad: TMLR 2025, arXiv 2405.16625; code:
github.com/ShuvenduRoy/CoACT-FSCIL).

Shapes: C classes seen so far, E embedding width, n images of a session.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import AsyncLoraConfig
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, Trainer, everything, is_head
from hf_cl.losses import Consistency, MaskedCrossEntropy, ProjectedContrast, Projector, SupervisedContrastive
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.schedules import constant, cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import Prototypes, Unfreeze
from hf_cl.rules import Plain

CITATION = """@article{roy2025coact,
  title={Consistency-Guided Asynchronous Contrastive Tuning for Few-Shot Class-Incremental Tuning of Foundation Models},
  author={Roy, Shuvendu and Dolatabadi, Elham and Afkanpour, Arash and Etemad, Ali},
  journal={Transactions on Machine Learning Research},
  year={2025}
}"""

logger = logging.getLogger(__name__)

Objective = Literal["fixed", "figure"]
IncrementalTrain = Literal["classifier", "lora", "classifier+lora"]


def coact(
    *,
    adapter: AsyncLoraConfig | None = None,
    epochs: int = 50,
    incremental_epochs: int = 1,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    encoder_lr_factor: float = 0.001,
    incremental_lr_factor: float = 0.001,
    incremental_train: IncrementalTrain = "classifier",
    incremental_unfrozen: bool = False,
    objective: Objective = "fixed",
    contrast_weight: float = 1.0,
    consistency_weight: float = 1.0,
    start_with_prototypes: bool = True,
    projector: Sequence[int] = (),
    loss_scope: LossScope = "seen",
) -> Method:
    """Asynchronous LoRA with a supervised contrast to its teacher, then prototypes of the new classes. The defaults are the official
    setting of CIFAR-100 with 10 shots in every session.

    Session 0: cross-entropy plus the contrast between the student's first view and the teacher's second view. From `unfreeze_epoch` of the
    adapter's config on ("controlled fine-tuning"), the blocks from `unfreeze_from` on and the pooler train too, at a smaller rate. Each
    later session writes the mean embedding of its classes' shots into their rows, and then trains for `incremental_epochs`: in 11 of the 19
    published settings that is 0, and nothing is trained.

    Args:
        adapter: LoRA, what is unfrozen and when, the teacher's decay, the head. None: LoRA in all blocks; block 9 and what follows it is
            unfrozen from the start.
        epochs: of session 0, with a rate that falls by a cosine per epoch.
        incremental_epochs: of each later session, at a constant rate.
        learning_rate: of LoRA and rows in session 0 (SGD with Nesterov momentum 0.9).
        weight_decay: coupled, of everything that trains.
        encoder_lr_factor: of copies and pooler, relative to it.
        incremental_lr_factor: of later sessions, relative to it.
        incremental_train: what trains in later sessions.
        incremental_unfrozen: whether copies and pooler train in later sessions too.
        objective: of later sessions. "fixed" is the official code's: one contrast of three views (teacher at the end of session 0 and
            pre-trained model) and the consistency of the base classes' logits. "figure" is the paper's overview figure: a contrast to the
            base session's student, and one to the teacher, which goes on.
        contrast_weight, consistency_weight: weights of the terms beside cross-entropy.
        start_with_prototypes: whether the rows of session 0 begin as prototypes too.
        projector: widths of a projection head before the contrasts, such as (128,) or (512, 128); the official settings have none.
            Trained in session 0 at the encoder's rate, with an average and states of its own for the roles.
        loss_scope: classes that compete in cross-entropy: all "seen", or the session's "new" ones.

    Raises ValueError for an unknown objective or choice of what trains.
    """
    if objective not in ("fixed", "figure"):
        raise ValueError(f"objective must be 'fixed' or 'figure', got {objective!r}.")
    if incremental_train not in ("classifier", "lora", "classifier+lora"):
        raise ValueError(f"incremental_train must be 'classifier', 'lora' or 'classifier+lora', got {incremental_train!r}.")
    config = adapter or AsyncLoraConfig(unfreeze_from=9)
    cross_entropy = MaskedCrossEntropy(loss_scope)
    projection = Projector(projector, decay=config.ema_decay) if projector else None
    contrast = SupervisedContrastive(["teacher"], weight=contrast_weight)
    if projection is not None:
        contrast = ProjectedContrast(["teacher"], weight=contrast_weight, projector=projection)
    base_losses: list[LossTerm] = [cross_entropy, contrast]
    later_losses = _later_losses(cross_entropy, objective, contrast_weight, consistency_weight, projection)
    if incremental_epochs == 0:
        logger.warning("incremental_epochs is 0: after session 0 only the rows of new classes are written, and nothing is trained.")
    elif incremental_train == "classifier" and not incremental_unfrozen:
        logger.warning("Only rows train after session 0, so contrasts have no gradient there; they are left out.")
        later_losses = [term for term in later_losses if not isinstance(term, SupervisedContrastive)]

    def trains_later(name: str) -> bool:
        if name.startswith("losses."):
            return False
        if _is_unfrozen_weight(name):
            return incremental_unfrozen
        return ("classifier" if is_head(name) else "lora") in incremental_train

    def phases(session: Session) -> list[Phase]:
        if session.id > 0:
            return [Phase("incremental", incremental_epochs, later_losses, trains_later)]
        if len(session.class_names) == 1:
            logger.warning("Session 0 has one class: cross-entropy and contrast say nothing about classes there.")
        lora_epochs = epochs if config.unfreeze_from is None else min(config.unfreeze_epoch, epochs)
        lora = Phase("lora", lora_epochs, base_losses, lambda name: not _is_unfrozen_weight(name))
        return [lora, Phase("unfrozen", epochs - lora_epochs, base_losses, everything)]

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        encoder = [p for name, p in named_parameters if _at_encoder_rate(name)]
        others = [p for name, p in named_parameters if not _at_encoder_rate(name)]
        groups = [{"params": others}, {"params": encoder}] if encoder else [{"params": others}]
        sgd = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
        if session.id > 0:
            return sgd, constant(*[learning_rate * incremental_lr_factor] * len(groups))
        return sgd, cosine([learning_rate, learning_rate * encoder_lr_factor][: len(groups)], epochs)

    return Method(
        name="coact",
        adapter=config,
        phases=phases,
        optimizer=optimizer,
        rule=Plain(),
        parts=(
            EmaTeacher(objective, clone=incremental_unfrozen),
            Prototypes(base_session=start_with_prototypes),
            *(() if projection is None else (projection,)),
        ),
        title="CoACT",
        citation=CITATION,
    )


def _later_losses(
    cross_entropy: LossTerm, objective: Objective, contrast: float, consistency: float, projector: Projector | None
) -> list[LossTerm]:
    def term(*roles: str, **kwargs: Any) -> LossTerm:
        return SupervisedContrastive(roles, weight=contrast, projector=projector, **kwargs)

    if objective == "fixed":
        return [cross_entropy, term("base_teacher", "pretrained"), Consistency(weight=consistency)]
    return [cross_entropy, term("base", name="base_contrast"), term("teacher", name="asynchronous_contrast")]


def _at_encoder_rate(name: str) -> bool:
    return _is_unfrozen_weight(name) or name.startswith("losses.")


def _is_unfrozen_weight(name: str) -> bool:
    """Weights of the base that controlled fine-tuning trains: copies and pooler."""
    return ".async_lora_copy." in name or name.startswith("head.pooler.")


@dataclass
class CoactSettings(AdapterSettings):
    """Settings of the recipe `coact`; the defaults are the official setting of CIFAR-100 with 10 shots in every session."""

    batch_size: int = 64
    """Images per optimizer step."""
    augmentation: str = "strong"
    """A name of `hf_cl.images.AUGMENTATIONS`."""
    protocol: str = "few_shot_class_incremental_tuning"
    """`few_shot_class_incremental_tuning` (FSCIT): session 0 is few-shot too; `few_shot_class_incremental` (FSCIL): it has all images."""
    shots: int | None = 10
    """Training images per class of a few-shot session."""
    index_list: str | None = None
    """A folder with the published lists of shots; absent: an own draw by class_order_seed."""
    epochs: int = 50
    """Epochs of session 0."""
    incremental_epochs: int = 1
    """Epochs of each later session; 0: only rows are written, nothing is trained."""
    learning_rate: float = 0.1
    """Of LoRA and rows in session 0 (SGD, cosine per epoch)."""
    weight_decay: float = 5e-4
    """Of SGD."""
    encoder_lr_factor: float = 0.001
    """Learning rate of unfrozen weights, relative to it."""
    incremental_lr_factor: float = 0.001
    """Learning rate of later sessions, relative to it."""
    incremental_train: IncrementalTrain = "classifier"
    """What trains in later sessions: classifier, lora, classifier+lora."""
    incremental_unfrozen: bool = False
    """Whether unfrozen weights train in later sessions too."""
    objective: Objective = "fixed"
    """Of later sessions: `fixed` is the official code's, `figure` the paper's overview figure."""
    contrast_weight: float = 1.0
    """Weight of each supervised contrastive term."""
    consistency_weight: float = 1.0
    """Weight of the consistency term."""
    start_with_prototypes: bool = True
    """Whether the rows of session 0 begin as the mean embeddings of its classes."""
    projector: list[int] = field(default_factory=list)
    """Widths of a projection head before the contrasts, such as [128]; the official settings have none."""
    r: int = 16
    """Rank of LoRA."""
    lora_alpha: float = 16
    """LoRA is scaled by lora_alpha / r."""
    lora_dropout: float = 0.1
    """Dropout on the input of LoRA."""
    lora_blocks: list[int] | None = None
    """Blocks with LoRA; absent: all."""
    unfreeze_from: int | Literal["last"] | None = 9
    """First block that is unfrozen; `last`: the last one; -1: everything; null: nothing."""
    unfreeze_epoch: int = 0
    """Epoch of session 0 from which unfrozen weights train."""
    ema_decay: float = 0.999
    """Share of its old weights that the teacher keeps in an update."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear", "bias": False, "pooler": True})
    """The head and its settings; `pooler: false` for bases without a pooler."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = AsyncLoraConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            layers_to_transform=self.lora_blocks,
            unfreeze_from=self.unfreeze_from,
            unfreeze_epoch=self.unfreeze_epoch,
            ema_decay=self.ema_decay,
            head=dict(self.head),
        )
        return self.completed(
            coact(
                adapter=adapter,
                epochs=self.epochs,
                incremental_epochs=self.incremental_epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                encoder_lr_factor=self.encoder_lr_factor,
                incremental_lr_factor=self.incremental_lr_factor,
                incremental_train=self.incremental_train,
                incremental_unfrozen=self.incremental_unfrozen,
                objective=self.objective,
                contrast_weight=self.contrast_weight,
                consistency_weight=self.consistency_weight,
                start_with_prototypes=self.start_with_prototypes,
                projector=self.projector,
                loss_scope=self.scope("seen"),
            )
        )


class EmaTeacher(Unfreeze):
    """Calls the adapter when its teacher is due: the unfreezing, an update after each step, the states kept at the end of session 0.

    Args:
        objective: "fixed" reads the teacher of the end of session 0 later; under "figure" the teacher goes on.
        clone: whether unfrozen weights train after session 0, so that the states of its end need storage of their own.
    """

    _teacher = True

    def __init__(self, objective: Objective, *, clone: bool) -> None:
        super().__init__()
        self.objective, self.clone = objective, clone

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        super().begin_session(trainer, session)
        self._session = session.id

    def after_step(self, trainer: Trainer) -> None:
        if self._session == 0 or self.objective == "figure":
            self._tuner.update_teacher()

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if session.id == 0:
            roles = ("base", "base_teacher") if self.objective == "fixed" else ("base",)
            self._tuner.keep(*roles, clone=self.clone)
