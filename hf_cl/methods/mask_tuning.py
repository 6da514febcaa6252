"""R-AMT: regularised mask tuning (Zheng et al.: ICCV 2023, arXiv 2307.15049; code: github.com/wuw2019/R-AMT).

The paper tunes CLIP on a few shots of one data set. Sessions, other heads and bases without a text tower are our own.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import MaskTuningConfig, MaskTuningModel
from hf_cl.adapters.glad.config import TEXT_HEAD
from hf_cl.adapters.mask_tuning.model import POOLING_HEAD, TEXT_TOWER
from hf_cl.contracts import LossTerm, Method, NamedParameters, Part, Phase, Schedule, Session, Trainer, everything, is_head
from hf_cl.losses import MaskedCrossEntropy, MaskNorm, ZeroShotKL
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.schedules import cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.rules import GradientDropout, Plain

logger = logging.getLogger(__name__)

Targets = Literal["attention", "r-amt", "all"]
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "attn.qkv", "attn.proj"]
_PATCHES = ["patch_embedding", "patch_embeddings.projection", "patch_embed.proj"]
TARGETS: dict[str, list[str]] = {
    "attention": _ATTENTION,
    "r-amt": [*_ATTENTION, *_PATCHES],
    "all": [*_ATTENTION, *_PATCHES, "fc1", "fc2"],
}
"""What of the vision tower is masked, by the names of all families."""

CITATION = """@inproceedings{zheng2023regularized,
  title={Regularized Mask Tuning: Uncovering Hidden Knowledge in Pre-trained Vision-Language Models},
  author={Zheng, Kecheng and Wu, Wei and Feng, Ruili and Zhu, Kai and Liu, Jiawei and Zhao, Deli and Zha, Zheng-Jun and Chen, Wei and
          Shen, Yujun},
  booktitle={IEEE/CVF International Conference on Computer Vision},
  year={2023}
}"""


class MaskWatch(Part):
    """Warns at the end of a session in which no weight changed sides, and of a matrix that is masked whole.

    A score starts `init_value - threshold` above the comparison; at a rate of 8e-5 Adam needs 63 steps in one direction to cross it.
    """

    def __init__(self) -> None:
        self._before: dict[str, float] = {}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._before = _tuner(trainer).masked_shares()

    def end_session(self, trainer: Trainer, session: Session) -> None:
        after = _tuner(trainer).masked_shares()
        if after == self._before and trainer.named_parameters:
            logger.warning(
                "Session %d changed no mask: no score crossed the threshold. Train longer or at a larger rate, by about which Adam moves a "
                "score in a step.",
                session.id,
            )
        for name, share in after.items():
            if share == 1:
                logger.warning("Session %d masked %s whole: nothing passes through it any more.", session.id, name)

    def state_dict(self) -> dict[str, Any]:
        return {"before": self._before}

    def load_state_dict(self, state: Any) -> None:
        self._before = dict(state["before"])


def _tuner(trainer: Trainer) -> MaskTuningModel:
    if not isinstance(trainer.tuner, MaskTuningModel):
        raise ValueError(f"MaskWatch needs a MASK_TUNING adapter; this run has a {type(trainer.tuner).__name__}.")
    return trainer.tuner


def mask_tuning(
    *,
    adapter: MaskTuningConfig | None = None,
    epochs: int = 30,
    learning_rate: float = 8e-5,
    head_learning_rate: float = 1e-3,
    mask_norm: float = 1e-4,
    dropout: float | None = 1.0,
    loss_scope: LossScope = "seen",
) -> Method:
    """A mask on the vision tower, trained with cross-entropy and the norm of its scores; Adam without decay, a cosine per epoch.

    Args:
        adapter: None: attention projections and the patch convolution, under a text head.
        epochs: of each session.
        learning_rate: of the scores.
        head_learning_rate: of a head that trains.
        mask_norm: weight of the norm.
        dropout: strength of the gradient dropout against the distance to the zero-shot predictions; None: the plain gradient.
        loss_scope: classes that compete: all "seen", or the session's "new" ones.

    Raises ValueError for gradient dropout under a head without zero-shot predictions.
    """
    config = adapter or MaskTuningConfig(target_modules=TARGETS["r-amt"], exclude_modules=_excluded(), head=dict(TEXT_HEAD))
    if dropout is not None and not config.has_text_head:
        raise ValueError(
            "Gradient dropout holds the gradient against the zero-shot predictions, which take a text head ({'type': 'text'}) and a base "
            "with two towers. Say rule: none under any other head."
        )
    losses: list[LossTerm] = [MaskedCrossEntropy(loss_scope), MaskNorm(mask_norm)]
    if dropout is not None:
        losses.append(ZeroShotKL())

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        groups = [
            {"params": [p for name, p in named_parameters if not is_head(name)], "lr": learning_rate},
            {"params": [p for name, p in named_parameters if is_head(name)], "lr": head_learning_rate},
        ]
        return torch.optim.Adam(groups), cosine([learning_rate, head_learning_rate], epochs)

    return Method(
        name="mask_tuning",
        title="R-AMT" if dropout is not None else "Mask tuning",
        citation=CITATION,
        adapter=config,
        phases=lambda session: [Phase("train", epochs, losses, everything)],
        optimizer=optimizer,
        rule=Plain() if dropout is None else GradientDropout(strength=dropout),
        parts=[MaskWatch(), *drift_parts(config.head)],
    )


def _excluded() -> str:
    return f"{TEXT_TOWER}|{POOLING_HEAD}"


@dataclass
class MaskTuningSettings(AdapterSettings):
    """Settings of the recipe `mask_tuning`; the defaults are the published ones, under base-to-novel with 16 shots."""

    backbone: str = "openai/clip-vit-base-patch16"
    """A Hub id or folder of a base, or `demo_clip` and `demo` (ship with hf_cl); a text head takes CLIP or SigLIP with both towers."""
    protocol: str = "base_to_novel"
    """A name of `hf_cl.scenarios.SCENARIOS`: which classes and images each session brings, and what is tested."""
    shots: int | None = 16
    """Training images per class of a few-shot session."""
    batch_size: int = 32
    """Images per optimizer step."""
    augmentation: str = "crop_flip"
    """A name of `hf_cl.images.AUGMENTATIONS`."""
    epochs: int = 30
    """Epochs of each session."""
    learning_rate: float = 8e-5
    """Of the scores: a step moves one by at most this much, and 0.005 (init_value less threshold) has to be crossed."""
    head_learning_rate: float = 1e-3
    """Of a head that trains."""
    masked: Targets = "r-amt"
    """What is masked: `attention` projections, with the patch convolution (`r-amt`, published), or with the MLPs too (`all`)."""
    threshold: float = 5e-3
    """A weight is used where its score is above it."""
    init_value: float = 1e-2
    """Of all scores at the start."""
    sessions: Literal["continue", "stack"] = "continue"
    """`continue`: one mask, trained on and on; `stack`: what a session has masked stays masked."""
    mask_norm: float = 1e-4
    """Weight of the norm of the scores, which draws towards masking."""
    rule: Literal["gradient_dropout", "none"] = "gradient_dropout"
    """Entries that conflict with the zero-shot model are dropped at random, or `none`, for heads that are not text."""
    strength: float = 1.0
    """Of the gradient dropout: 1 sets what is dropped to zero, 0 is the plain gradient."""
    head: dict[str, Any] = field(default_factory=lambda: dict(TEXT_HEAD))
    """The head and its settings: text (published), gaussian, linear, ..."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = MaskTuningConfig(
            target_modules=list(TARGETS[self.masked]),
            exclude_modules=_excluded(),
            threshold=self.threshold,
            init_value=self.init_value,
            sessions=self.sessions,
            head=dict(self.head),
        )
        return self.completed(
            mask_tuning(
                adapter=adapter,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                head_learning_rate=self.head_learning_rate,
                mask_norm=self.mask_norm,
                dropout=self.strength if self.rule == "gradient_dropout" else None,
                loss_scope=self.scope("seen" if adapter.has_text_head else "new"),
            )
        )
