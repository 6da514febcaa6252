"""What a forward pass gives, and how loss terms see a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from hf_cl.contracts.data import Session


@dataclass(frozen=True)
class Outputs:
    """What one forward pass of the model gives."""

    features: Tensor
    """[B, D] what the model's class feeds its classifier (ViT: CLS; Dinov2: CLS and patch mean; CLIP: patch mean; SigLIP: token mean).
    Under a head that reads tokens the map of patch tokens [B, H, W, D]."""
    logits: Tensor
    """[B, C]; -inf where a class was not computed."""
    embedding: Tensor
    """[B, E] `head.embed(features)`: what contrastive losses, prototypes and statistics use. The features themselves by default."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, ...] each: what the adapter hands out of a forward, under the names it declares (`HeadedTuner.extras`)."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of a whole data set, in the data set's order, on every process."""

    features: Tensor  # [n, D], or [n, H, W, D] under a head that reads tokens
    labels: Tensor  # [n]
    index: Tensor  # [n]


@dataclass(frozen=True)
class Context:
    """One batch as the loss terms see it."""

    batch: Mapping[str, Tensor]
    """`pixel_values` [B, 3, S, S] (absent in a features phase), `labels` [B], `index` [B] (stable sample ids). Where a memory has images:
    `replayed` [B] bool, those that are its, and `exemplar` [B], their positions in it, -1 for the session's own. `domain` [B] where the
    data know it: which domain of a domain-incremental stream an image is of, numbered in order of arrival."""
    views: tuple[Outputs, ...]
    """One per augmented view that goes through the model: two where a loss of the phase needs "two_views", else one."""
    session: Session
    epoch: int
    """Epoch of the phase, from 0."""
    step: int
    """Optimizer step of the run, from 0."""
    frozen: Callable[..., Outputs]
    """`frozen(role, view=-1)`: the batch through another state of the same backbone; no gradient, eval mode, computed once per batch.
    Roles: "pretrained" (adapter off), "previous" (end of the last session), and those an adapter names in `roles`."""
    replayed_share: float = 0.0
    """Share of `replayed` images in the whole optimizer step, over all micro-batches and processes: what a mean over one kind alone has to
    be divided by, so that it does not depend on how the step is cut."""
    exposed: int | None = None
    """In an ordered session, how many classes have come by the end of this step: they are the first columns, and `logits[:, :exposed]` are
    those that compete. None elsewhere: all do."""
    update: int = 0
    """Which of the phase's `updates_per_batch` on this batch it is, from 0."""

    @property
    def features(self) -> Tensor:
        return self.views[0].features

    @property
    def embedding(self) -> Tensor:
        return self.views[0].embedding

    @property
    def logits(self) -> Tensor:
        return self.views[0].logits

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """What the adapter handed out of the first view; a loss names in `needs` what it reads."""
        return self.views[0].extras

    @property
    def labels(self) -> Tensor:
        return self.batch["labels"]
