"""Features onto fixed targets, by their dot product.

Shapes: B batch, E embedding width, M samples of all processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.heads import ETFHead
from hf_cl.losses.global_batch import gather_batch


class DotRegression(LossTerm):
    """`1/2 mean (cos(embedding, target of the class) - 1)^2`, under an `etf` head.

    Yang et al., ICLR 2023, equation 9: it pulls each feature onto the fixed vector of its class and pushes it from nothing, since the frame
    does that already. The gradient vanishes for a feature that lies opposite to its target too, so such a one hardly moves.

    Args:
        weight: a number, or a function of the phase's epoch.
        balanced: every class of a batch weighs the same, however many samples it has there: sample i by `B / (classes * n_y)`. Counted over
            all processes and within a micro-batch.
        feature_mixup: the share of steps in which each feature is averaged with that of another image of the batch, on whatever process,
            and pulled onto both targets.

    Raises ValueError for a share that is none, and `begin_session` for another head.
    """

    name = "dot_regression"

    def __init__(
        self,
        weight: float | Callable[[int], float] = 10.0,
        balanced: bool = False,
        feature_mixup: float = 0.0,
        name: str = "dot_regression",
    ) -> None:
        if not 0 <= feature_mixup <= 1:
            raise ValueError(f"DotRegression: feature_mixup is a share of the steps, from 0 to 1, got {feature_mixup}.")
        self.weight, self.balanced, self.feature_mixup, self.name = weight, balanced, feature_mixup, name
        self.needs = frozenset({"index"})

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, ETFHead):
            raise ValueError(
                f"dot_regression pulls features onto the fixed vectors of a head of type etf, not of a {type(trainer.head).__name__}."
            )
        self._trainer, self._head = trainer, trainer.head

    def __call__(self, ctx: Context) -> Tensor:
        if self.feature_mixup:
            generator = self._trainer.generator_for("feature mixup", ctx.session.id, ctx.step)
            if float(torch.rand((), generator=generator)) < self.feature_mixup:
                return self._mixed(ctx, generator)
        return self._onto(ctx.embedding, ctx.labels, ctx)

    def _mixed(self, ctx: Context, generator: torch.Generator) -> Tensor:
        index = ctx.batch["index"]
        (ids, features, labels), valid = gather_batch(index, index, ctx.features, ctx.labels)
        other = partners(ids, valid, generator)[: len(index)]  # this process's own samples come first
        embedding = self._head.embed((ctx.features + features[other]) / 2)
        return (self._onto(embedding, ctx.labels, ctx) + self._onto(embedding, labels[other], ctx)) / 2

    def _onto(self, embedding: Tensor, labels: Tensor, ctx: Context) -> Tensor:
        squares = (dots(embedding, self._head.targets(labels)) - 1) ** 2  # [B]
        if self.balanced:
            squares = squares * class_weights(ctx.batch["index"], labels)
        return squares.mean() / 2


def dots(embedding: Tensor, targets: Tensor) -> Tensor:
    """[B, E], [B, E] -> [B], not below float32."""
    return (embedding.to(torch.promote_types(embedding.dtype, torch.float32)) * targets.to(embedding.device)).sum(1)


def partners(ids: Tensor, valid: Tensor, generator: torch.Generator) -> Tensor:
    """[M] for each sample of the global batch the place of another: a permutation that depends on the ids and the draw alone, so that it
    is the same however the batch is cut over processes. Samples that are not `valid` keep to themselves."""
    order = ids.masked_fill(~valid, torch.iinfo(ids.dtype).max).argsort()  # [M] places by id
    keys = torch.rand(len(ids), generator=generator).to(ids.device, non_blocking=True)
    drawn = order[keys.masked_fill(~valid[order], torch.inf).argsort()]  # [M]
    return torch.empty_like(order).scatter_(0, order, drawn)


def class_weights(index: Tensor, labels: Tensor) -> Tensor:
    """[B] `M / (classes * count of the label)`, over the batch of all processes: their mean over the batch is 1."""
    (everybody,), valid = gather_batch(index, labels)  # [M]
    same = (labels[:, None] == everybody) & valid  # [B, M]
    counts = (everybody[:, None] == everybody).logical_and(valid).sum(1)  # [M] of each sample's label
    classes = (valid / counts).sum()  # each class counts 1
    return valid.sum() / (classes * same.sum(1))
