"""Prompt-aligned gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_cl.rules.reference import AgainstReference


class ProGrad(AgainstReference):
    """Per tensor: where the gradient g points against the gradient r of a reference loss, that part of it is removed.

    `g_f = g - lam (g . u) u` where `g . u < 0`, u = r / |r|, else g. Zhu et al., "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023;
    their reference is the distance to the zero-shot predictions (`hf_cl.losses.ZeroShotKL`). Tensors without a reference gradient, or
    with a zero one, keep g. How the two gradients come about: `AgainstReference`.

    Args:
        reference: name of the reference loss.
        lam: how much of the conflicting part is removed.

    Raises ValueError for lam < 0, and in `compute` what `AgainstReference` refuses.
    """

    def __init__(self, reference: str = "zero_shot_kl", lam: float = 1.0) -> None:
        if not lam >= 0:
            raise ValueError(f"ProGrad: lam must not be negative, got {lam}.")
        super().__init__(reference)
        self.lam = lam

    def record(self) -> dict[str, Any]:
        return {"rule": "prograd", "lam": self.lam, **({} if self.reference == "zero_shot_kl" else {"reference": self.reference})}

    def combined(self, gradient: Tensor, reference: Tensor, number: int) -> Tensor:
        """NaN where the reference is not finite, so that fp16's scaler skips the step."""
        norm = torch.linalg.vector_norm(reference).clamp_min(torch.finfo(reference.dtype).tiny)
        along = (gradient * reference).sum() / norm
        return gradient - torch.where(along >= 0, 0.0, self.lam * along / norm) * reference
