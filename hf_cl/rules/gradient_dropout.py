"""Entries of the gradient are dropped at random, the likelier the more they conflict with a reference."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Session, Trainer
from hf_cl.rules.reference import AgainstReference

_TINY = 1e-8


class GradientDropout(AgainstReference):
    """Per entry: `g_f = ((1 - strength) + strength [P > U]) g` with `P = (1 + sign(g) (g + r) / (|g| + |r| + 1e-8)) / 2`.

    Gradient dropout regularity of R-AMT (Zheng et al., ICCV 2023, arXiv 2307.15049; code: wuw2019/R-AMT). r is the gradient of the
    reference loss, the distance to the zero-shot predictions there. Entries of equal signs are kept; where the signs differ, P is
    |g| / (|g| + |r|). The reference gradient itself is never applied. How the two gradients come about: `AgainstReference`.

    U is uniform, a function of the run's seed, the step and the parameter alone: every process drops the same entries, and a resumed run
    the same as one that was not stopped. Under fp16 both gradients carry the loss scale, which P does not see but for its 1e-8.

    Args:
        reference: name of the reference loss.
        strength: 1: a dropped entry is zero; 0: the plain gradient.

    Raises ValueError for a strength outside [0, 1], and in `compute` what `AgainstReference` refuses.
    """

    def __init__(self, reference: str = "zero_shot_kl", strength: float = 1.0) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"GradientDropout: strength must lie between 0 and 1, got {strength}.")
        super().__init__(reference)
        self.strength = strength
        self._seed = self._steps = 0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._seed = trainer.seed

    def after_step(self, trainer: Trainer) -> None:
        self._steps += 1

    def combined(self, gradient: Tensor, reference: Tensor, number: int) -> Tensor:
        return dropped(gradient, reference, self.uniform(gradient, number), self.strength)

    def uniform(self, like: Tensor, number: int) -> Tensor:
        """U of this step for the parameter of that number, of the shape of `like`."""
        digest = hashlib.sha256(repr((self._seed, self._steps, number)).encode()).digest()
        place = like.device if like.is_cuda else torch.device("cpu")  # where drawing a number per weight takes no copy
        generator = torch.Generator(place).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.rand(like.shape, generator=generator, dtype=like.dtype, device=place).to(like.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])


def dropped(gradient: Tensor, reference: Tensor, uniform: Tensor, strength: float) -> Tensor:
    """The gradient with entries dropped; all of one shape. NaN where the reference is, so that fp16's scaler skips the step."""
    agreement = gradient.sign() * (gradient + reference) / (gradient.abs() + reference.abs() + _TINY)
    kept = ((1 + agreement) / 2 > uniform).to(gradient.dtype) + 0 * reference
    return ((1 - strength) + strength * kept) * gradient
