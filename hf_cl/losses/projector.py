"""A projection head between embedding and contrast, and what it was under the model's other roles.

Shapes: B batch, E embedding width, d width of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_cl.contracts import Part, Session, Trainer


class Projector(Part, nn.Module):
    """Linear layers with ReLU between them, which a contrast sees the embedding through (Chen et al., "A Simple Framework for Contrastive
    Learning of Visual Representations", ICML 2020). Inference never needs it: it is in checkpoints, not in the adapter.

    Under the role `pretrained` it is as it began; under `teacher` a moving average, `decay * teacher + (1 - decay) * projector` after each
    step of session 0; under `base` and `base_teacher` the two as session 0 left them. CoACT (Roy et al., TMLR 2025) freezes it then. It
    belongs to the method's parts too, so that it hears of all sessions.

    Args:
        widths: of its layers; the last is d.
        decay: of the average; None: it has no roles, and its own weights alone.

    Raises ValueError for no width, or one below 1.
    """

    def __init__(self, widths: Sequence[int], *, decay: float | None = 0.999) -> None:
        nn.Module.__init__(self)
        check_widths(widths)
        self.widths, self.decay = tuple(widths), decay
        self.layers = nn.Sequential()
        self._states: dict[str, dict[str, Tensor]] = {}
        self._session = 0
        self._accelerator: Any = None

    def __call__(self, embedding: Tensor, role: str | None = None) -> Tensor:  # [B, E] -> [B, d]
        """Through its present weights, or those of a role, without gradient."""
        wide = embedding.to(next(self.layers.parameters()).dtype)
        with torch.autocast(wide.device.type, enabled=False):
            if role is None:
                return self.layers(wide)
            with torch.no_grad():
                return functional_call(self.layers, self._states[role], (wide,))

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._session, self._accelerator = session.id, trainer.accelerator
        device = trainer.accelerator.device
        if not len(self.layers):
            head: Any = trainer.head
            self._build(head.in_features)  # heads of their own embed in the width of their features
        self.layers.to(device)
        self._states = {role: {name: t.to(device) for name, t in state.items()} for role, state in self._states.items()}
        for role in ("pretrained", "teacher") if self.decay is not None else ():
            self._states.setdefault(role, self._now())

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        if self._session == 0 and self.decay is not None:
            teacher = self._states["teacher"]
            students = [dict(self.layers.named_parameters())[name].detach() for name in teacher]
            torch._foreach_lerp_(list(teacher.values()), students, 1 - self.decay)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if session.id == 0 and self.decay is not None:
            self._states |= {"base": self._now(), "base_teacher": {k: t.clone() for k, t in self._states["teacher"].items()}}

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not len(self.layers):
            return {}
        return {"layers": {name: p.detach() for name, p in self.layers.named_parameters()}, "states": self._states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not state:
            return
        if not len(self.layers):  # a resume between sessions restores before a session has begun
            self._build(state["layers"]["0.weight"].shape[1])
        with torch.no_grad():
            for name, parameter in self.layers.named_parameters():
                parameter.copy_(state["layers"][name])
        device = next(self.layers.parameters()).device
        self._states = {role: {name: t.to(device) for name, t in tensors.items()} for role, tensors in state["states"].items()}

    def _build(self, in_features: int) -> None:
        widths = (in_features, *self.widths)
        for number, (inside, outside) in enumerate(pairwise(widths)):
            if number:
                self.layers.append(nn.ReLU())
            self.layers.append(nn.Linear(inside, outside))
        for parameter in self.layers.parameters():
            parameter.register_hook(self._over_processes)

    def _over_processes(self, gradient: Tensor) -> Tensor:
        """The mean over processes: DDP knows the model alone."""
        return gradient if self._accelerator is None else self._accelerator.reduce(gradient, reduction="mean")

    def _now(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.layers.named_parameters()}


def check_widths(widths: Sequence[int]) -> None:
    """Raise ValueError unless these are widths of layers."""
    if isinstance(widths, int | str) or not widths or any(not isinstance(width, int) or width < 1 for width in widths):
        raise ValueError(f"projector must be a list of widths of at least 1, such as (512, 128), or empty for none; got {widths!r}.")
