"""The main loss of MVP: cross-entropy on scaled features, more of it where an image's gradient disagrees with the batch's.

Shapes: b images of this process, B of all, C classes that compete, D feature width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, Head, LossTerm, Session, Trainer
from hf_cl.heads import InstanceMaskHead, LinearHead
from hf_cl.losses.global_batch import gather_batch


class MvpLoss(LossTerm):
    """`(1 - alpha) CE + alpha * mean(ign^gamma) * CE`, CE from features over `cps = 1 - cos(row of the class, feature) + margin`.

    Moon et al., ICCV 2023 (MVP), with its adaptive feature scaling (cps) and gradient-similarity focal factor: ign = 1 - cos(s, g), of the
    gradient s of an image and g of the whole batch, both with respect to the head's row of the image's class. Both follow in closed form
    from `(softmax - one-hot) * mask`, where the published code runs a backward pass per image. Neither carries a gradient.

    The published code reduces the cross-entropy to a number before the focal factor meets it, so no image is weighted against another;
    `per_sample` weights each image by its own, as the words of the paper have it. A class competes once it has come.

    Args:
        alpha: share of the focal part.
        gamma: its exponent.
        margin: keeps cps above zero.
        feature_scaling: whether features are divided by cps.
        focal: whether the focal part is there; without it the loss is CE.
        per_sample: weigh images one by one.

    Raises ValueError for numbers out of range, and at the beginning of a session whose head has no linear rows.
    """

    name = "mvp"
    needs = frozenset({"chosen", "index", "all_classes"})

    def __init__(
        self,
        alpha: float = 0.5,
        gamma: float = 2.0,
        margin: float = 0.5,
        feature_scaling: bool = True,
        focal: bool = True,
        per_sample: bool = False,
    ) -> None:
        if not 0 <= alpha <= 1 or gamma < 0 or margin <= 0:
            raise ValueError(f"MvpLoss: alpha from 0 to 1, gamma from 0, margin above 0; got {alpha}, {gamma}, {margin}.")
        self.alpha, self.gamma, self.margin = alpha, gamma, margin
        self.feature_scaling, self.focal, self.per_sample = feature_scaling, focal, per_sample
        self._head: Head | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, LinearHead):
            raise ValueError(f"MvpLoss divides features before the rows of a linear head; this run has a {type(trainer.head).__name__}.")
        self._head = trainer.head

    def __call__(self, ctx: Context) -> Tensor:
        head = self._head
        if not isinstance(head, LinearHead):
            raise RuntimeError("MvpLoss: no session has begun; the term learns the head in begin_session.")
        exposed = ctx.logits.shape[1] if ctx.exposed is None else ctx.exposed
        with torch.autocast(ctx.features.device.type, enabled=False):
            features = ctx.features.to(head.weight.dtype)
            weight, bias = head.weight[:exposed], None if head.bias is None else head.bias[:exposed]
            believed = self._believed(head, ctx)[:, :exposed]  # [b, C]
            ign, valid, cps = self.scores(features, ctx.labels, weight, bias, believed, ctx.batch["index"])
            scaled = features / cps[:, None] if self.feature_scaling else features
            each = F.cross_entropy(F.linear(scaled, weight, bias) * believed, ctx.labels, reduction="none")  # [b]
        if not self.focal:
            return each.mean()
        factors = ign.pow(self.gamma)  # [B], this process's images first
        focal = factors[: len(each)] if self.per_sample else (factors * valid).sum() / valid.sum()
        return ((1 - self.alpha) * each + self.alpha * focal * each).mean()

    def _believed(self, head: LinearHead, ctx: Context) -> Tensor:
        if isinstance(head, InstanceMaskHead):
            return head.believed(ctx.extras["chosen"][:, 0])
        return torch.ones_like(ctx.logits, dtype=head.weight.dtype)

    @torch.no_grad()
    def scores(
        self, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, believed: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """How much each image's gradient disagrees with that of the batch of all processes, [B] in [0, 2]; which count [B]; cps [b]."""
        wrong = (F.linear(features, weight, bias) * believed).softmax(-1)  # [b, C]
        wrong = (wrong - F.one_hot(labels, wrong.shape[1])) * believed
        batch = gather_batch(index, wrong, features, labels)
        errors, rows, classes = batch.tensors
        errors = errors * batch.valid[:, None]
        gradient = errors.T @ rows / batch.valid.sum()  # [C, D] of the batch, row by row
        own = errors.gather(1, classes[:, None]) * rows  # [B, D] of each image, of its class's row
        ign = 1 - F.cosine_similarity(own, gradient[classes], dim=-1)  # [B]
        cps = 1 - F.cosine_similarity(weight[labels], features, dim=-1) + self.margin  # [b]
        return ign, batch.valid, cps
