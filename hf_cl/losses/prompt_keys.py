"""The key losses of L2P and DualPrompt: keys move towards the queries of the images that get their prompts.

Shapes: B batch, S layers with chosen entries, M entries, k entries of an image.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm

Over = Literal["images", "pairs"]
Reduction = Literal["mean", "sum"]


class PromptKeys(LossTerm):
    """1 - cosine of query and key, for the keys that were chosen; the query has no gradient.

    Wang et al., "Learning to Prompt for Continual Learning", CVPR 2022, equation 5, and "DualPrompt", ECCV 2022, equation 6. Both
    repositories that L2P is compared by (GT-RIPL/CODA-Prompt, jpmorganchase/ovor) index the cosines by the choices of the whole batch, so
    every image pulls the prompts that other images chose; `over="pairs"` is that. And the first of them sums over images and layers where
    the second takes means, so that its weight of 1 is not the other's: `reduction`.

    Args:
        weight: of the term.
        over: whose choices an image pulls at: its own ("images"), or those of every image of the batch ("pairs").
        reduction: over images, entries and layers. A sum grows with the batch, with `pairs` by its square.

    Raises ValueError for another word.
    """

    name = "prompt_keys"
    needs = frozenset({"key_similarity", "chosen"})

    def __init__(self, weight: float = 1.0, over: Over = "images", reduction: Reduction = "mean") -> None:
        if over not in ("images", "pairs") or reduction not in ("mean", "sum"):
            raise ValueError(f"PromptKeys: over is images or pairs, reduction mean or sum; got {over!r} and {reduction!r}.")
        self.weight, self.over, self.reduction = weight, over, reduction

    def __call__(self, ctx: Context) -> Tensor:
        similarity, chosen = ctx.extras["key_similarity"], ctx.extras["chosen"]  # [B, S, M], [B, S, k]
        if self.over == "images":
            distances = 1 - similarity.gather(2, chosen)  # [B, S, k]
            return distances.mean() if self.reduction == "mean" else distances.sum()
        ones = torch.ones_like(chosen, dtype=similarity.dtype)
        times = torch.zeros_like(similarity).scatter_add(2, chosen, ones).sum(0)  # [S, M] how often the batch chose each
        pairs = len(chosen) * chosen.numel()
        total = pairs - (similarity.sum(0) * times).sum()
        return total / pairs if self.reduction == "mean" else total
