"""One optimizer step: closures for the gradient rule, the guard against non-finite losses, clipping, the update.

No host sync happens here: losses and the guard's flag stay on the device until `read` is called. (A loss that must wait says so:
`NuclearNorm`.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.contracts import Context, GradientRule, LossTerm, NamedParameters, Outputs, Phase, Session
from hf_cl.training.needs import num_model_views

logger = logging.getLogger(__name__)


class TrainingDivergedError(RuntimeError):
    """A loss or a gradient was not finite. The message names the step, the samples and the last good checkpoint."""


@dataclass(frozen=True)
class MicroBatch:
    """Part of an optimizer step on this process.

    `weight` is (its samples) x (processes) / (samples of the step): the sum over micro-batches, averaged over processes, is then the mean
    over the global batch, however unevenly it is cut.
    """

    batch: Mapping[str, Tensor]
    weight: float
    replayed_share: float = 0.0
    """As `Context.replayed_share`."""
    exposed: int | None = None
    """As `Context.exposed`."""
    update: int = 0
    """As `Context.update`."""


def _detached(context: Context) -> Context:
    """The context without its graph."""
    return replace(context, views=tuple(_detached_view(view) for view in context.views))


def _detached_view(view: Outputs) -> Outputs:
    extras = {name: tensor.detach() for name, tensor in view.extras.items()}
    return Outputs(view.features.detach(), view.logits.detach(), view.embedding.detach(), extras)


class Stepper:
    """Runs the optimizer steps of one phase of one session."""

    def __init__(
        self,
        phase: Phase,
        session: Session,
        rule: GradientRule,
        model: nn.Module,
        optimizer: Any,
        named: NamedParameters,
        accelerator: Any,
        max_grad_norm: float | None,
        frozen: Callable[[str, Tensor], Outputs],
        given: Callable[..., AbstractContextManager[None]],
    ) -> None:
        self.phase, self.session, self.rule, self.model, self.optimizer = phase, session, rule, model, optimizer
        self.named = [(name, p) for name, p in named if p.requires_grad]
        self.accelerator, self.max_grad_norm, self.frozen, self.given = accelerator, max_grad_norm, frozen, given
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._without_gradient: set[str] = set()
        self.contexts: tuple[Context, ...] = ()
        """What the losses saw in the last step, one per micro-batch, of the rule's first pass, without gradient."""
        self._first_bad = torch.full((), -1, dtype=torch.long, device=accelerator.device)

    def step(self, micro_batches: Sequence[MicroBatch], epoch: int, step: int, rates: Sequence[float]) -> bool:
        """One update at the given learning rates; returns whether the optimizer took it (fp16's scaler may skip one)."""
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.contexts = ()
        closures = [self._closure(micro, epoch, step, number) for number, micro in enumerate(micro_batches)]
        losses = self.rule.compute(closures, self.named, self.accelerator, self.model)
        self.accelerator.unscale_gradients(self.optimizer)
        self.rule.transform(self.named)
        self._guard(losses, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, value in losses.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1
        return not getattr(self.optimizer, "step_was_skipped", False)

    def _closure(self, micro: MicroBatch, epoch: int, step: int, number: int) -> Callable[[], dict[str, Tensor]]:
        memo: dict[tuple[str, int], Outputs] = {}
        pixels = [micro.batch[key] for key in ("pixel_values", "pixel_values_1") if key in micro.batch]

        def frozen(role: str, view: int = -1) -> Outputs:
            if not -len(pixels) <= view < len(pixels):
                raise ValueError(f"frozen({role!r}, view={view}): there are {len(pixels)} views; ask for more by the loss's `needs`.")
            key = role, view % len(pixels)  # the last view is asked for by either of its numbers
            if key not in memo:
                memo[key] = self.frozen(role, pixels[view])
            return memo[key]

        def losses() -> dict[str, Tensor]:
            seen = pixels[: num_model_views(self.phase)]
            with self.given(micro.batch, len(seen)):
                views = self._views(seen, micro.batch)
            about = {"replayed_share": micro.replayed_share, "exposed": micro.exposed, "update": micro.update}
            context = Context(micro.batch, views, self.session, epoch, step, frozen, **about)
            if len(self.contexts) == number:  # a rule's further passes come when every micro-batch has left its own
                self.contexts += (_detached(context),)
            return {term.name: self._value(term, context) * (term.weight_at(epoch) * micro.weight) for term in self.phase.losses}

        return losses

    def _value(self, term: LossTerm, context: Context) -> Tensor:
        value = term(context)
        if not isinstance(value, Tensor) or value.dim() != 0:
            found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"Loss {term.name!r} returned {found}; it must be a tensor without dimensions, the mean over the batch.")
        if not value.requires_grad and term.name not in self._without_gradient:
            self._without_gradient.add(term.name)
            logger.warning("Loss %r of phase %r has no gradient: nothing is trained by it.", term.name, self.phase.name)
        return value

    def _views(self, pixels: Sequence[Tensor], batch: Mapping[str, Tensor]) -> tuple[Outputs, ...]:
        if not pixels:
            return (Outputs(*self.model(batch["features"])),)
        if len(pixels) == 1:
            return (Outputs(*self.model(pixels[0])),)
        *tensors, extras = self.model(torch.cat(list(pixels)))  # [2 B, ...]: one forward for both views
        parts = [tensor.chunk(len(pixels)) for tensor in tensors]  # of each the views, [B, ...]
        named = {name: tensor.chunk(len(pixels)) for name, tensor in extras.items()}
        each = ({name: chunks[number] for name, chunks in named.items()} for number in range(len(pixels)))
        return tuple(Outputs(*view) for view in zip(*parts, each, strict=True))

    def _guard(self, losses: Mapping[str, Tensor], step: int) -> None:
        """Clip; and where loss or gradient is not finite, note the first such step and replace the gradient by zero."""
        gradients = [p.grad for _, p in self.named if p.grad is not None]
        if not gradients:
            return
        total = torch.stack(list(losses.values())).sum()
        finite = total.isfinite()
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.accelerator.scaler is None:  # under fp16 an overflow is the scaler's business: it skips the step and lowers its scale
            finite = finite & norm.isfinite()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_([p for _, p in self.named], self.max_grad_norm, norm)
        bad = ~finite
        for gradient in gradients:
            gradient.masked_fill_(bad, 0.0)
        self._first_bad.masked_fill_((self._first_bad < 0) & bad, step)

    def read(self) -> tuple[dict[str, float], int | None]:
        """Mean losses since the last reading (over steps and processes), and the first step that was not finite. Syncs with the device."""
        names = sorted(self._sums)
        if not names:
            return {}, None
        values = torch.stack([self._sums[name].float() for name in names]) / self._count  # [losses]
        values = self.accelerator.reduce(values, reduction="mean")
        # the flag of any process counts: the largest is the earliest seen where only some processes saw one
        first_bad = int(self.accelerator.gather(self._first_bad.reshape(1)).max())
        self._sums, self._count = {}, 0
        means = {name: v if math.isfinite(v) else float("nan") for name, v in zip(names, values.tolist(), strict=True)}
        return means, first_bad if first_bad >= 0 else None
