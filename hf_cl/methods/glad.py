"""GLAD: LoRA on both towers of CLIP, trained by a gradient steered towards flat regions (Peng et al., arXiv 2507.13089).

The paper's settings were not available: rank, rates, lengths and batch size are those of CLIP-LoRA (Zanella, Ben Ayed: CVPRW 2024;
code: github.com/MaxZanella/CLIP-LoRA), the radius is SAM's, and the regularised gradient is the midpoint of the plain and the SAM gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import GladConfig
from hf_cl.adapters.glad.config import TEXT_HEAD
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import MaskedCrossEntropy, ZeroShotKL
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.schedules import cosine_per_step
from hf_cl.methods.with_memory import LossScope
from hf_cl.rules import recorded_rule

CITATION = """@article{peng2025glad,
  title={{GLAD}: Generalizable Tuning for Vision-Language Models},
  author={Peng, Yuqi and Wang, Pengfei and Liu, Jianzhuang and Chen, Shifeng},
  journal={arXiv preprint arXiv:2507.13089},
  year={2025}
}"""


def glad(
    *,
    adapter: GladConfig | None = None,
    iterations: int = 8000,
    session_iterations: int | None = None,
    optimizer: Literal["adamw", "sgd"] = "adamw",
    learning_rate: float = 2e-4,
    min_learning_rate: float = 1e-6,
    weight_decay: float = 1e-2,
    loss_scope: LossScope = "seen",
) -> Method:
    """LoRA on q, k and v of both towers, cross-entropy among all classes seen, a cosine schedule per step. One optimizer per session.

    The gradient rule is the one that the adapter's config records; rule "prograd" adds the distance to the zero-shot predictions as its
    reference. On a base with a classifier the head trains too.

    Args:
        adapter: the LoRA and the rule; None: rank 2, rule glad.
        iterations: optimizer steps of session 0, rounded up to whole epochs; CLIP-LoRA's 500 per shot with 16 shots.
        session_iterations: the same for each later session; None: as many.
        optimizer: AdamW (CLIP-LoRA), or SGD with momentum 0.9.
        learning_rate, min_learning_rate: at the start and the end of a session.
        weight_decay: of the optimizer.
        loss_scope: classes that compete: all "seen", or the session's "new" ones.

    Raises ValueError for an unknown optimizer, or lengths below 1.
    """
    config = adapter or GladConfig(head=dict(TEXT_HEAD))
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"optimizer must be adamw or sgd, got {optimizer!r}.")
    if min(iterations, iterations if session_iterations is None else session_iterations) < 1:
        raise ValueError("iterations and session_iterations must be at least 1.")
    losses: list[LossTerm] = [MaskedCrossEntropy(loss_scope)]
    if config.rule == "prograd":
        losses.append(ZeroShotKL())

    def length(session: Session) -> tuple[int, int]:
        """Epochs, and steps of each."""
        steps = session.steps_per_epoch()
        wanted = iterations if session.id == 0 or session_iterations is None else session_iterations
        return math.ceil(wanted / steps), steps

    def make_optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        parameters = [p for _, p in named_parameters]
        if optimizer == "adamw":
            made: torch.optim.Optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
        else:
            made = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
        return made, cosine_per_step(learning_rate, min_learning_rate, *length(session))

    return Method(
        name="glad",
        adapter=config,
        phases=lambda session: [Phase("train", length(session)[0], losses, everything)],
        optimizer=make_optimizer,
        rule=recorded_rule(config),
        title="GLAD" if config.rule == "glad" else f"LoRA with rule {config.rule}",
        citation=CITATION,
    )


@dataclass
class GladSettings(AdapterSettings):
    """Settings of the recipe `glad`; the defaults are CLIP-LoRA's, with GLAD's rule, under base-to-novel with 16 shots."""

    backbone: str = "openai/clip-vit-base-patch16"
    """A Hub id or folder of a CLIP or SigLIP model, `open_clip:<model>/<weights>`, or `demo_clip` (ships with hf_cl)."""
    protocol: str = "base_to_novel"
    """A name of `hf_cl.scenarios.SCENARIOS`: which classes and images each session brings, and what is tested."""
    shots: int | None = 16
    """Training images per class of a few-shot session."""
    batch_size: int = 32
    """Images per optimizer step."""
    augmentation: str = "crop_flip"
    """A name of `hf_cl.images.AUGMENTATIONS`."""
    iterations: int = 8000
    """Optimizer steps of session 0, rounded up to whole epochs."""
    session_iterations: int | None = None
    """The same for each later session; absent: as many."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum 0.9; a new one in every session."""
    learning_rate: float = 2e-4
    """At the start of each session."""
    min_learning_rate: float = 1e-6
    """At its end (cosine per step)."""
    weight_decay: float = 1e-2
    """Of the optimizer."""
    r: int = 2
    """Rank of LoRA."""
    lora_alpha: int = 1
    """LoRA is scaled by lora_alpha / sqrt(r)."""
    lora_dropout: float = 0.25
    """Dropout on the input of LoRA."""
    rule: Literal["glad", "sam", "sagm", "gradient_norm", "prograd", "none"] = "glad"
    """The gradient rule; `none` is plain LoRA."""
    rho: float = 0.05
    """Radius of the perturbation, in parameter units."""
    lam: float | None = None
    """Weight of the perturbed gradient (glad; absent: 0.5) or of the projection (prograd; absent: 1)."""
    sagm_alpha: float = 1e-3
    """alpha of rule sagm."""
    mu: float | None = None
    """Weight of the gradient norm under rule gradient_norm."""
    head: dict[str, Any] = field(default_factory=lambda: dict(TEXT_HEAD))
    """The text head: template, logit_scale (a number or `model`), clean_class_names, learned_words for classes called by codes."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = GladConfig(
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            rule=self.rule,
            rho=self.rho,
            lam=self.lam,  # pyright: ignore[reportArgumentType] (the config fills in the rule's own)
            sagm_alpha=self.sagm_alpha,
            mu=self.mu,
            head=dict(self.head),
        )
        return self.completed(
            glad(
                adapter=adapter,
                iterations=self.iterations,
                session_iterations=self.session_iterations,
                optimizer=self.optimizer,
                learning_rate=self.learning_rate,
                min_learning_rate=self.min_learning_rate,
                weight_decay=self.weight_decay,
                loss_scope=self.scope("seen"),
            )
        )
