"""CPE-CLIP: multimodal prompts for few-shot learning in sessions (D'Alessandro et al., ICCVW 2023; code: github.com/neuraptic/cpe-clip)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.contracts import Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.schedules import cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.rules import Plain, SessionScaled, session_scale

logger = logging.getLogger(__name__)

RATES = (0.001, 0.00298, 0.00496, 0.00694, 0.00892, 0.0109)
"""Learning rates of a session's epochs, as the official code runs them: its warm-up of 50 epochs, 0.001 + 0.099 e / 50, never ends."""

CITATION = """@inproceedings{dalessandro2023cpeclip,
  title={Multimodal Parameter-Efficient Few-Shot Class Incremental Learning},
  author={D'Alessandro, Marco and Alonso, Alberto and Calabr{\\'e}s, Enrique and Galar, Mikel},
  booktitle={IEEE/CVF International Conference on Computer Vision Workshops},
  year={2023}
}"""


def cpe_clip(
    *,
    adapter: CPEClipConfig | None = None,
    base_epochs: int = 5,
    session_epochs: int = 5,
    session_batch_size: int | None = 4,
    lr_per_epoch: Sequence[float] = RATES,
    learning_rate: float | None = None,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-5,
    regularization: Literal["balance", "none", "freeze"] = "balance",
    regularization_scale: Literal["grad", "lr"] | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """CPE-CLIP's prompts, trained with cross-entropy among the current session's classes. The defaults are the official CIFAR-100 setting.

    Each session starts a new optimizer. Under "balance" a session's gradient is scaled by alpha_t = new classes / classes seen so far.

    Args:
        adapter: the prompts; None: two per layer in both towers.
        base_epochs, session_epochs: epochs of session 0 and of each later one.
        session_batch_size: images per optimizer step of each later session (session 0 has the run's); None: the run's.
        lr_per_epoch: learning rate of each epoch of a session, the same list in every session.
        learning_rate: instead of the list, a rate that falls along a cosine from epoch to epoch of each session (CoOp).
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
    if learning_rate is None and len(lr_per_epoch) < max(base_epochs, session_epochs):
        raise ValueError(f"lr_per_epoch has {len(lr_per_epoch)} rates for sessions of up to {max(base_epochs, session_epochs)} epochs.")
    cross_entropy = MaskedCrossEntropy(loss_scope)
    balanced = regularization == "balance"

    def phases(session: Session) -> list[Phase]:
        epochs = base_epochs if session.id == 0 else 0 if regularization == "freeze" else session_epochs
        if epochs and balanced:
            session_scale(session)
        if epochs and len(session.own) == 1 and loss_scope == "new":
            logger.warning(
                "Session %d has one class: its loss among the new classes is zero, and nothing is learned. Use loss_scope='seen'.",
                session.id,
            )
        return [Phase("train", epochs, [cross_entropy], everything, batch_size=None if session.id == 0 else session_batch_size)]

    def make_optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        parameters = [p for _, p in named_parameters]
        if optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(parameters, momentum=momentum, weight_decay=weight_decay)
        else:
            made = torch.optim.AdamW(parameters, weight_decay=weight_decay)
        factor = session_scale(session) if balanced and scale == "lr" else 1.0
        if learning_rate is not None:
            return made, cosine([factor * learning_rate], base_epochs if session.id == 0 else session_epochs)
        return made, lambda epoch, step: [factor * lr_per_epoch[epoch]]

    return Method(
        name="cpe_clip",
        adapter=adapter or CPEClipConfig(head=dict(TEXT_HEAD)),
        phases=phases,
        optimizer=make_optimizer,
        rule=SessionScaled(Plain()) if balanced and scale == "grad" else Plain(),
        title="CPE-CLIP",
        citation=CITATION,
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


@dataclass
class CpeClipSettings(AdapterSettings):
    """Settings of the recipe `cpe_clip`; the defaults are the official CIFAR-100 setting."""

    backbone: str = "openai/clip-vit-base-patch16"
    """A Hub id or folder of a CLIP or SigLIP model, `open_clip:<model>/<weights>`, or `demo_clip` (ships with hf_cl)."""
    protocol: str = "few_shot_class_incremental"
    """A name of `hf_cl.scenarios.SCENARIOS`: which classes and images each session brings, and what is tested."""
    shots: int | None = 5
    """Training images per class of a few-shot session."""
    num_base_classes: int = 60
    """Classes of session 0."""
    classes_per_session: int = 5
    """Classes of each later session."""
    batch_size: int = 32
    """Images per optimizer step."""
    augmentation: str = "none"
    """A name of `hf_cl.images.AUGMENTATIONS`."""
    session_batch_size: int | None = 4
    """Images per optimizer step from session 1 on; null: as in session 0."""
    base_epochs: int = 5
    """Epochs of session 0."""
    session_epochs: int = 5
    """Epochs of each later session."""
    lr_per_epoch: list[float] = field(default_factory=lambda: list(RATES))
    """Learning rate of each epoch of a session."""
    learning_rate: float | None = None
    """Instead of lr_per_epoch: a rate that falls along a cosine from epoch to epoch."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD or AdamW; a new one in every session."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 1e-5
    """Of the optimizer."""
    regularization: Literal["balance", "none", "freeze"] = "balance"
    """`balance`: a session's step is scaled by new classes / classes seen; `none`; `freeze`: nothing trains after session 0."""
    regularization_scale: Literal["grad", "lr"] | None = None
    """What `balance` scales: the gradient (with SGD) or the learning rate (with AdamW)."""
    num_prompt_tokens: int = 2
    """Prompt vectors per layer."""
    prompt_depth: int | None = None
    """Layers with prompts, from the first; absent: all of the shallower tower."""
    towers: Literal["both", "text", "vision"] = "both"
    """Towers with prompts: `text` is CoOp-like, `vision` VPT-like."""
    vision_mode: Literal["accumulate", "replace", "accumulate_same"] = "accumulate"
    """What happens to vision prompts from layer to layer."""
    coupling: Literal["shared_linear", "per_layer_linear", "independent"] = "shared_linear"
    """How vision prompts come from text prompts; `per_layer_linear` is MaPLe."""
    init: Literal["xavier", "normal", "words"] = "xavier"
    """Initial values; `words` takes those of init_text in layer 0."""
    init_text: str | None = None
    """Words whose embeddings the text prompts of layer 0 start from."""
    head: dict[str, Any] = field(default_factory=lambda: dict(TEXT_HEAD))
    """The text head: template, logit_scale (a number or `model`), clean_class_names, learned_words for classes called by codes."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = CPEClipConfig(
            num_prompt_tokens=self.num_prompt_tokens,
            prompt_depth=self.prompt_depth,
            towers=self.towers,
            vision_mode=self.vision_mode,
            coupling=self.coupling,
            init=self.init,
            init_text=self.init_text,
            init_seed=self.seed,
            head=dict(self.head),
        )
        return self.completed(
            cpe_clip(
                adapter=adapter,
                base_epochs=self.base_epochs,
                session_epochs=self.session_epochs,
                session_batch_size=self.session_batch_size,
                lr_per_epoch=self.lr_per_epoch,
                learning_rate=self.learning_rate,
                optimizer=self.optimizer,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                regularization=self.regularization,
                regularization_scale=self.regularization_scale,
                loss_scope=self.scope("new"),
            )
        )
