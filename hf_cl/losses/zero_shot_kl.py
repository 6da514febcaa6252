"""Distance of the predictions to the zero-shot model's.

Shapes: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm


class ZeroShotKL(LossTerm):
    """Kullback-Leibler divergence from the zero-shot predictions to the present ones, up to the zero-shot entropy, which is constant.

    `-T^2 mean_b sum_c softmax(z0 / T)_c log softmax(z / T)_c` with the zero-shot logits z0 = `ctx.frozen("pretrained").logits`: the
    reference whose gradient ProGrad protects (Zhu et al., "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023; the distillation loss of
    its code). Columns that were not computed (-inf) take no part. The phase must run on images.

    Args:
        temperature: T.
        mix: below 1, z0 becomes `mix z0 + (1 - mix) z`, with gradient through z (R-AMT's code).
        weight: a number, or a function of the phase's epoch.

    Raises ValueError for a temperature that is not positive, a mix outside [0, 1], and, when called, where the pretrained model has another
    number of classes: its classifier is then no zero-shot classifier.
    """

    name = "zero_shot_kl"
    needs = frozenset({"pretrained", "all_classes"})

    def __init__(self, temperature: float = 1.0, weight: float | Callable[[int], float] = 1.0, mix: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"ZeroShotKL: temperature must be positive, got {temperature}.")
        if not 0 <= mix <= 1:
            raise ValueError(f"ZeroShotKL: mix must lie between 0 and 1, got {mix}.")
        self.temperature, self.mix = temperature, mix
        self.weight = weight

    def __call__(self, ctx: Context) -> Tensor:
        zero_shot = ctx.frozen("pretrained", view=0).logits  # [B, C]
        if zero_shot.shape != ctx.logits.shape:
            raise ValueError(
                f"ZeroShotKL: the pretrained model gives {zero_shot.shape[1]} logits for {ctx.logits.shape[1]} classes; it needs a head "
                "that knows classes by their names ({'type': 'text', ...})."
            )
        if self.mix < 1:
            zero_shot = self.mix * zero_shot + (1 - self.mix) * ctx.logits
        target = F.softmax(zero_shot / self.temperature, dim=-1)  # [B, C]
        log_probability = F.log_softmax(ctx.logits / self.temperature, dim=-1).masked_fill(target == 0, 0.0)  # 0 * -inf is not a number
        return -(target * log_probability).sum(-1).mean() * self.temperature**2
