"""The output regulariser of a hypernetwork: what it generates for earlier sessions stays where it was.

Shapes: J earlier sessions, N generated numbers of a session, B images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from hf_cl.adapters import HyperLoraModel
from hf_cl.adapters.hyper_lora import Generator
from hf_cl.contracts import Context, LossTerm, Session, Trainer

Pairs = Sequence[tuple[Tensor, Tensor]]
"""Per layer A [J, r, in] and B [J, out, r]."""


class GeneratedFactors(LossTerm):
    """`1/J sum_j sum_i F_ji (W_ji - W*_ji)^2`: W* are those of session j when the present one began.

    Von Oswald et al., "Continual learning with hypernetworks" (ICLR 2020), equation 2 in its direct form: the penalty is taken at the
    weights as they are, not after a candidate step, so it has no gradient in the first step of a session. It is a sum over numbers: what
    weight suits depends on the rank and on how many layers there are (ViT-B with r 4: 147 thousand numbers a session).

    It rests in session 0 and must hear of it where `importance` is "fisher", so it stands in the method's `parts` too.

    Args:
        weight: beta.
        on: "factors", or "product": of B A, which is what the model sees, and lets the two move against each other.
        importance: "none" is F = 1; "fisher": the mean squared gradient of the log-likelihood of a session's images at the end of the
            session, for each number of the factors. One number beside each generated one is kept then, for each session.
        sessions: how many earlier ones are drawn for a step; None: all.

    Raises ValueError for another word, for `sessions` below 1, for importance of products, and at the beginning of a session whose adapter
    is not HYPER_LORA.
    """

    name = "generated_factors"
    first_session = 1

    def __init__(
        self,
        weight: float | Callable[[int], float] = 0.01,
        on: Literal["factors", "product"] = "factors",
        importance: Literal["none", "fisher"] = "none",
        sessions: int | None = None,
    ) -> None:
        if on not in ("factors", "product") or importance not in ("none", "fisher"):
            raise ValueError(f"GeneratedFactors: on is factors or product, importance none or fisher; got {on!r} and {importance!r}.")
        if on == "product" and importance == "fisher":
            raise ValueError("GeneratedFactors: importance belongs to single factors; with on: product leave it out.")
        if sessions is not None and sessions < 1:
            raise ValueError(f"GeneratedFactors: sessions must be at least 1, got {sessions}.")
        if not callable(weight) and weight < 0:
            raise ValueError(f"GeneratedFactors: weight must not be negative, got {weight}.")
        self.weight, self.on, self.importance, self.sessions = weight, on, importance, sessions
        self.needs = frozenset({"own_images"}) if importance == "fisher" else frozenset()
        self._trainer: Trainer | None = None
        self._generator: Generator | None = None
        self._anchor: dict[str, Tensor] = {}
        self._importance: list[Tensor] = []
        self._targets: Pairs = ()

    @torch.no_grad()
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, HyperLoraModel):
            raise ValueError(f"GeneratedFactors needs a HYPER_LORA adapter; this run has a {type(tuner).__name__}. Leave the term out.")
        self._trainer, self._generator = trainer, tuner.generator(tuner.active_adapters[0])
        self._anchor = {name: parameter.detach().clone() for name, parameter in self._generator.named_parameters()}
        self._targets = ()

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if self.importance == "fisher":
            self._importance.append(fisher_of(trainer, session))

    def __call__(self, ctx: Context) -> Tensor:
        if self._generator is None or self._trainer is None:
            raise RuntimeError("GeneratedFactors: no session has begun; the term learns the adapter in begin_session.")
        generator = self._generator
        if not self._targets:
            with torch.no_grad():
                self._targets = functional_call(generator, self._anchor, (generator.past,)).pairs
        past, then, weights = generator.past, self._targets, self._weights()
        if self.sessions is not None and self.sessions < len(past):
            draws = self._trainer.generator_for("generated_factors", ctx.step)
            chosen = torch.randperm(len(past), generator=draws)[: self.sessions].to(past.device, non_blocking=True)
            past, then = past[chosen], [(a[chosen], b[chosen]) for a, b in then]
            weights = None if weights is None else weights[chosen]
        now = generator(past).pairs
        return factor_penalty(now, then, weights) if self.on == "factors" else product_penalty(now, then)

    def _weights(self) -> Tensor | None:
        """[J, N] of the earlier sessions."""
        return torch.stack(self._importance) if self.importance == "fisher" else None

    def state_dict(self) -> dict[str, Any]:
        return {"anchor": self._anchor, "importance": self._importance}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        like = self._anchor
        self._anchor = {name: tensor.to(like[name]) if name in like else tensor for name, tensor in state["anchor"].items()}
        device = next(iter(self._anchor.values())).device if self._anchor else None
        self._importance, self._targets = [tensor.to(device) for tensor in state["importance"]], ()


def factor_penalty(now: Pairs, then: Pairs, importance: Tensor | None = None) -> Tensor:
    """The sum of (weighted) squared changes of the factors, a mean over sessions; `importance` [J, N] in the order of `flat`."""
    change = (flat(now) - flat(then)).square()  # [J, N]
    return (change if importance is None else change * importance).sum() / len(change)


def product_penalty(now: Pairs, then: Pairs) -> Tensor:
    """The same of the products B A, from r x r matrices alone: B A - B* A* = (B - B*) A + B* (A - A*)."""
    totals = []
    for (a, b), (old_a, old_b) in zip(now, then, strict=True):
        left, right = torch.cat([b - old_b, old_b], dim=-1), torch.cat([a, a - old_a], dim=-2)  # [J, out, 2r], [J, 2r, in]
        totals.append(((left.mT @ left) * (right @ right.mT)).sum())
    return torch.stack(totals).sum() / len(now[0][0])


def flat(pairs: Pairs) -> Tensor:
    """[J, N] all numbers of each session: layer after layer, A before B."""
    return torch.cat([factor.flatten(1) for pair in pairs for factor in pair], dim=1)


def fisher_of(trainer: Trainer, session: Session) -> Tensor:
    """[N] the mean over the session's images of the squared gradient of each generated number, in eval mode; of all processes.

    Each image gets factors of its own, which are the same numbers, so that one backward pass gives the gradient of every image.
    """
    tuner: Any = trainer.tuner
    name, training, start = tuner.active_adapters[0], trainer.model.training, session.own.start
    with torch.no_grad():
        generator = tuner.generator(name)
        pairs = generator(generator.embedding[None]).pairs
    total = torch.zeros_like(flat(pairs)[0])  # [N]
    trainer.model.eval()
    try:
        for batch in trainer.batches_of(session.train):
            labels = batch["labels"] - start
            own = [(_of_each(a, len(labels)), _of_each(b, len(labels))) for a, b in pairs]
            with tuner.fixed_factors(name, own):
                logits = trainer.outputs_of(batch["pixel_values"]).logits[:, start:]
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, [factor for pair in own for factor in pair])
            total += torch.cat([gradient.flatten(1) for gradient in gradients], dim=1).square().sum(0)
    finally:
        trainer.model.train(training)
    if trainer.accelerator.num_processes > 1:
        total = trainer.accelerator.reduce(total, reduction="sum")
    return total / len(session.train)


def _of_each(factor: Tensor, images: int) -> Tensor:
    return factor.expand(images, -1, -1).clone().requires_grad_(True)  # [B, ...]
