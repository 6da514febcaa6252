"""Curvature of the loss in what is trained, beside the learning rate.

Shapes: P scoped parameters, K random vectors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hf_cl.contracts import NamedParameters, Probe, Session, Trainer
from hf_cl.probes.curvature import Curvature, curvature
from hf_cl.scopes import scoped

logger = logging.getLogger(__name__)

SHORT = 500
"""Optimizer steps below which a session is too short for several batches of curvature."""


class SharpnessProbe(Probe):
    """Trace, largest eigenvalue and Frobenius norm of the Hessian of the training loss at the end of each session.

    Wu, Su: "The Implicit Regularization of Dynamical Stability in Stochastic Gradient Descent" (ICML 2023): at a learning rate eta, SGD can
    stay at a minimum only where tr H <= 2 / eta, and gradient descent where lambda_max <= 2 / eta. `eta_trace_over_2B` is our form for
    batches of B: above 1 says that it cannot stay. The theory is that of square loss at zero training loss; under cross-entropy a small
    trace may mean saturated logits, so `loss` stands beside it. Compare runs of one adapter, rank and scaling only.

    Trace and norm are Hutchinson's estimates with Rademacher vectors, the eigenvalue is by power iteration (`hf_cl/probes/curvature.py`).
    Products with the Hessian are by double backward through attention's mathematical form, without mixed precision. It leaves weights,
    gradients, modes and random generators as they were.

    Args:
        scope: what H is taken in, as `hf_cl.scopes.scoped` reads it.
        trace_samples: K.
        power_iterations, power_tolerance: at most so many products; stop at this relative change.
        batches: of `eval_batch_size` images, the first ones of the session's training images; 1 where the session has fewer than 500 steps.
        classes: that compete in the cross-entropy: "seen" or "new".

    Raises ValueError for numbers below 1, and at the end of a session for a scope that matches nothing.
    """

    name = "sharpness"

    def __init__(
        self,
        scope: str = "adapter",
        trace_samples: int = 16,
        power_iterations: int = 20,
        power_tolerance: float = 1e-3,
        batches: int = 4,
        classes: Literal["seen", "new"] = "seen",
    ) -> None:
        for name, value in (("trace_samples", trace_samples), ("power_iterations", power_iterations), ("batches", batches)):
            if value < 1:
                raise ValueError(f"SharpnessProbe: {name} must be at least 1, got {value}.")
        if classes not in ("seen", "new"):
            raise ValueError(f"SharpnessProbe: classes must be 'seen' or 'new', got {classes!r}.")
        self.scope, self.trace_samples, self.power_iterations = scope, trace_samples, power_iterations
        self.power_tolerance, self.batches, self.classes = power_tolerance, batches, classes
        self._steps, self._highest, self._last, self._images = 0, 0.0, 0.0, 0
        self._sessions: list[dict[str, Any]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._steps, self._highest, self._last = 0, 0.0, 0.0

    def after_step(self, trainer: Trainer) -> None:
        self._steps += 1
        self._last = max(trainer.rates)
        self._highest = max(self._highest, self._last)
        if self._steps == 1:
            self._images = trainer.images_seen

    def end_session(self, trainer: Trainer, session: Session) -> None:
        chosen = scoped(self.scope, trainer.named_parameters, "SharpnessProbe")
        count = self.batches if self._steps >= SHORT else 1
        with _left_as_it_was(trainer.model, chosen), sdpa_kernel(SDPBackend.MATH):
            gradient = self._gradient(trainer, session, count)
            found = curvature(
                gradient,
                [p for _, p in chosen],
                self.trace_samples,
                self.power_iterations,
                self.power_tolerance,
                self._draw(trainer, session),
                reduce=lambda value: trainer.accelerator.reduce(value, reduction="sum"),
            )
        if not math.isfinite(found.loss):
            logger.warning("SharpnessProbe: the loss of session %d is not finite; nothing is reported of it.", session.id)
            return
        self._sessions.append({"session": session.id, **self._record(found)})

    def _gradient(self, trainer: Trainer, session: Session, count: int) -> Callable[[list[Tensor]], tuple[Tensor, list[Tensor]]]:
        """A function of the tensors: this process's share of the mean loss over the fixed batches, and its gradient with a graph."""
        batches = list(islice(trainer.batches_of(session.train), count))
        first = session.own.start if self.classes == "new" else 0
        mine = torch.tensor(float(sum(len(batch["labels"]) for batch in batches)), device=trainer.accelerator.device)
        images = trainer.accelerator.reduce(mine, reduction="sum")

        def gradient(tensors: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
            total = torch.zeros((), device=trainer.accelerator.device)
            for batch in batches:
                logits = trainer.outputs_of(batch["pixel_values"], autocast=False).logits[:, first:].float()  # [B, c]
                total = total + F.cross_entropy(logits, batch["labels"] - first, reduction="sum")
            mean = total / images
            found = torch.autograd.grad(mean, tensors, create_graph=True, allow_unused=True)
            return mean, [torch.zeros_like(t) if g is None else g for g, t in zip(found, tensors, strict=True)]

        return gradient

    def _draw(self, trainer: Trainer, session: Session) -> Callable[[int, torch.device], Tensor]:
        generator = trainer.generator_for("sharpness", session.id)

        def draw(size: int, device: torch.device) -> Tensor:
            return (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).float().to(device)

        return draw

    def _record(self, found: Curvature) -> dict[str, Any]:
        half, batch = self._highest / 2, max(self._images, 1)
        return {
            "loss": found.loss,
            "gradient_norm": found.gradient_norm,
            "trace": found.trace,
            "trace_error": found.trace_error,
            "lambda_max": found.lambda_max,
            "converged": found.converged,
            "frobenius": found.frobenius,
            "curvature_along_gradient": found.along_gradient,
            "parameters": found.parameters,
            "effective_dimension": found.trace / found.lambda_max if found.lambda_max > 0 else None,
            "learning_rate": self._highest,
            "last_learning_rate": self._last,
            "eta_trace_over_2": half * found.trace,
            "eta_trace_over_2B": half * found.trace / batch,
            "eta_lambda_over_2": half * found.lambda_max,
        }

    def report(self) -> dict[str, Any]:
        last = {key: value for key, value in self._sessions[-1].items() if key != "session"} if self._sessions else {}
        return {**last, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "highest": self._highest, "last": self._last, "images": self._images, "sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._highest, self._last, self._images = state["steps"], state["highest"], state["last"], state["images"]
        self._sessions = list(state["sessions"])


@contextmanager
def _left_as_it_was(model: nn.Module, chosen: NamedParameters) -> Any:
    """Eval mode, and gradients for the chosen tensors alone; afterwards modes and flags are the old ones."""
    modes = {module: module.training for module in model.modules()}
    flags = {p: p.requires_grad for p in model.parameters()}
    flags |= {p: p.requires_grad for _, p in chosen}
    try:
        model.eval()
        for p in flags:
            p.requires_grad_(False)
        for _, p in chosen:
            p.requires_grad_(True)
        yield
    finally:
        for module, training in modes.items():
            module.training = training
        for p, flag in flags.items():
            p.requires_grad_(flag)
