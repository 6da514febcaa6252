"""Elastic weight consolidation.

Shapes: B batch, c classes of the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, NamedParameters, Session, Trainer
from hf_cl.losses.l2_anchor import beside, check_shapes, outside_head, snapshot


class EWC(LossTerm):
    """`(1/2 if half) sum_p F_p * (p - p_a)^2`: entries that mattered to earlier sessions are held where they were.

    Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (PNAS 2017), as Smith et al. run it (arXiv 2203.17269): one
    anchor, the newest, and one Fisher, to which each session adds. That of a session is `sum_k (gradient of the batch mean)^2 B_k / K` over
    its K batches in eval mode, of `scale * BCE` over the session's own columns, so `weight` compares at equal `scale` only.
    `fisher="per_sample"` is the mean of the squared gradients of single images.

    It rests in session 0 and must hear of it, so it stands in the method's `parts` too (`compose` does that). Several processes average
    the gradient before it is squared: two with half the batch each give the Fisher of one.

    Args:
        weight: a number, or a function of the phase's epoch.
        half: the factor 1/2 of the published form.
        fisher_batches: how many batches of a session count; None: all.
        fisher: "empirical" or "per_sample".
        decay: multiplies the Fisher of earlier sessions when a new one is added; 1 is the sum.
        scope: what is held, as `hf_cl.scopes.scoped` reads it; never the head.
        scale: of the binary cross-entropy whose Fisher it is.

    Raises ValueError for values out of range, at the beginning of a session for a scope that matches nothing or a tensor whose shape has
    changed, and at its end for a Fisher that is not finite.
    """

    name = "ewc"
    needs = frozenset({"own_images"})
    needs_first_session = "the Fisher of earlier sessions is in no adapter"
    first_session = 1

    def __init__(
        self,
        weight: float | Callable[[int], float] = 10.0,
        half: bool = True,
        fisher_batches: int | None = None,
        fisher: Literal["empirical", "per_sample"] = "empirical",
        decay: float = 1.0,
        scope: str = "adapter",
        scale: float = 5.0,
    ) -> None:
        if fisher not in ("empirical", "per_sample"):
            raise ValueError(f"EWC: fisher must be 'empirical' or 'per_sample', got {fisher!r}.")
        if fisher_batches is not None and fisher_batches < 1:
            raise ValueError(f"EWC: fisher_batches must be at least 1, got {fisher_batches}.")
        if not 0 <= decay <= 1:
            raise ValueError(f"EWC: decay must be between 0 and 1, got {decay}.")
        if not callable(weight) and weight < 0:
            raise ValueError(f"EWC: weight must not be negative, got {weight}.")
        self.weight, self.half, self.fisher_batches, self.fisher = weight, half, fisher_batches, fisher
        self.decay, self.scope, self.scale = decay, scope, scale
        self._parameters: NamedParameters = ()
        self._anchors: dict[str, Tensor] = {}
        self._fisher: dict[str, Tensor] = {}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._parameters = outside_head(self.scope, trainer.named_parameters, "EWC")
        self._anchors, self._fisher = beside(self._anchors, self._parameters), beside(self._fisher, self._parameters)
        if self._anchors:
            check_shapes(self._anchors, self._parameters, "EWC")

    def end_session(self, trainer: Trainer, session: Session) -> None:
        fresh = fisher_of(trainer, session, self._parameters, self.scale, self.fisher == "per_sample", self.fisher_batches)
        for name, value in fresh.items():
            if not value.isfinite().all():
                raise ValueError(f"EWC: the Fisher of {name} after session {session.id} is not finite; lower the learning rate.")
            self._fisher[name] = value + self.decay * self._fisher[name] if name in self._fisher else value
        self._anchors = snapshot(self._parameters)

    def __call__(self, ctx: Context) -> Tensor:
        values = [
            (self._fisher[name] * (p.to(self._anchors[name].dtype) - self._anchors[name]).square()).sum() for name, p in self._parameters
        ]
        return torch.stack(values).sum() * (0.5 if self.half else 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {"anchors": dict(self._anchors), "fisher": dict(self._fisher)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._anchors, self._fisher = beside(state["anchors"], self._parameters), beside(state["fisher"], self._parameters)


def fisher_of(
    trainer: Trainer, session: Session, parameters: NamedParameters, scale: float, per_sample: bool, limit: int | None
) -> dict[str, Tensor]:
    """The Fisher of a session, by name; the model's mode and the parameters' flags are as they were afterwards."""
    tensors = [p for _, p in parameters]
    before, training = [p.requires_grad for p in tensors], trainer.model.training
    trainer.model.eval()
    try:
        for p in tensors:
            p.requires_grad_(True)
        batches = islice(trainer.batches_of(session.train), limit)
        loss = _Loss(trainer, session.own.start, scale)
        sums = _per_sample(loss, batches, tensors) if per_sample else _per_batch(loss, batches, tensors)
    finally:
        for p, flag in zip(tensors, before, strict=True):
            p.requires_grad_(flag)
        trainer.model.train(training)
    return {name: total for (name, _), total in zip(parameters, sums, strict=True)}


class _Loss:
    """Gradients of the loss whose Fisher it is, and sums over processes."""

    def __init__(self, trainer: Trainer, first: int, scale: float) -> None:
        self.trainer, self.first, self.scale = trainer, first, scale

    def gradients(self, batch: Mapping[str, Tensor], tensors: list[nn.Parameter]) -> list[Tensor]:
        """Of the mean over this process's batch; zero where the loss does not reach. At least float32."""
        logits = self.trainer.outputs_of(batch["pixel_values"]).logits[:, self.first :]  # [B, c]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = F.one_hot(batch["labels"] - self.first, logits.shape[1]).to(logits)  # [B, c]
        value = self.scale * F.binary_cross_entropy_with_logits(logits, targets)
        found = torch.autograd.grad(value, tensors, allow_unused=True)
        return [zero if g is None else g.to(zero.dtype) for g, zero in zip(found, zeros(tensors), strict=True)]

    def summed(self, value: Tensor) -> Tensor:
        """Over all processes."""
        accelerator = self.trainer.accelerator
        return accelerator.reduce(value, reduction="sum") if accelerator.num_processes > 1 else value

    def count(self, number: int) -> float:
        """A number of images, over all processes."""
        return float(self.summed(torch.tensor(float(number), device=self.trainer.accelerator.device)))


def _per_batch(loss: _Loss, batches: Iterator[Mapping[str, Tensor]], tensors: list[nn.Parameter]) -> list[Tensor]:
    """`sum_k (gradient of the mean over the k-th global batch)^2 B_k / K`. A process that runs out of batches goes on with none."""
    sums, number = zeros(tensors), 0
    while True:
        batch = next(batches, None)
        rows = 0 if batch is None else len(batch["labels"])
        if not (total := loss.count(rows)):
            return [value / max(number, 1) for value in sums]
        number += 1
        mine = zeros(tensors) if batch is None else loss.gradients(batch, tensors)
        for value, gradient in zip(sums, mine, strict=True):
            value.add_(loss.summed(gradient * (rows / total)).square() * total)


def _per_sample(loss: _Loss, batches: Iterator[Mapping[str, Tensor]], tensors: list[nn.Parameter]) -> list[Tensor]:
    """The mean over all images of the squared gradient of each."""
    sums, seen = zeros(tensors), 0
    for batch in batches:
        for i in range(len(batch["labels"])):
            seen += 1
            single = loss.gradients({name: tensor[i : i + 1] for name, tensor in batch.items()}, tensors)
            for value, gradient in zip(sums, single, strict=True):
                value.add_(gradient.square())
    total = max(loss.count(seen), 1)
    return [loss.summed(value) / total for value in sums]


def zeros(tensors: list[nn.Parameter]) -> list[Tensor]:
    """One of each shape, float32 or wider."""
    return [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in tensors]
