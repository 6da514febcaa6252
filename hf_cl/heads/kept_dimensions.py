"""How many leading dimensions of a feature are kept: drawn in training, chosen at its end.

Shapes: B batch, D feature width, C classes.
"""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Head
from hf_cl.heads.cosine import CosineHead
from hf_cl.heads.linear import LinearHead

logger = logging.getLogger(__name__)

Distribution = Literal["gaussian", "geometric", "uniform"]
TIE_BREAK = 1e-5
"""What a dimension more has to be worth in accuracy."""
SLACK = 1.01
"""A cross-entropy within one percent of the smallest is as good."""
NEVER = 1e-6
"""Below this chance of being kept a dimension is never trained."""
AT_ONCE = 2**24
"""Cumulative logits that are held at once."""


def keep_sizes(distribution: Distribution, width: int, sigma: float, q: float) -> Tensor:
    """[D] float64: the chance that the first k dimensions alone are kept, k from 1 to D.

    "gaussian": p(k) ~ exp(-(k / sigma)^2), without a factor 1/2; "geometric": p(k) ~ (1 - q)^(k - 1); "uniform".
    """
    k = torch.arange(1, width + 1, dtype=torch.float64)
    if distribution == "gaussian":
        weights = (-((k / sigma) ** 2)).exp()
    elif distribution == "geometric":
        weights = (1 - q) ** (k - 1)
    else:
        weights = torch.ones_like(k)
    return weights / weights.sum()


def keep_probability(sizes: Tensor) -> Tensor:
    """[D] the chance that dimension j is kept: that of all k from j on."""
    return sizes.flip(0).cumsum(0).flip(0)


def say_what_never_trains(sizes: Tensor) -> None:
    """Log how many dimensions are kept so seldom that nothing is learned in them."""
    never = int((keep_probability(sizes) < NEVER).sum())
    if never == len(sizes) - 1:
        logger.warning("Nested dropout keeps the first dimension alone: sigma is too small.")
    elif never:
        logger.info("Nested dropout never trains %d of %d dimensions.", never, len(sizes))


def logits_of_sizes(head: Head, features: Tensor) -> Tensor:
    """[B, D] -> [D, B, C]: the logits of a linear or cosine head on the first k dimensions, for all k, as cumulative sums over dimensions.

    D times the work of one product, where D separate products would be D^2.

    Raises ValueError for a head of another kind.
    """
    if isinstance(head, CosineHead):
        rows = head.class_vectors()
        sums = (features.T[:, :, None] * rows.T[:, None]).cumsum(0)  # [D, B, C]
        lengths = features.T.square().cumsum(0).sqrt()[:, :, None] * rows.T.square().cumsum(0).sqrt()[:, None]  # [D, B, C]
        return head.scale * sums / lengths.clamp_min(1e-12)
    if isinstance(head, LinearHead):
        sums = (features.T[:, :, None] * head.aged_weight().T[:, None]).cumsum(0)  # [D, B, C]
        return sums if head.bias is None else sums + head.bias
    raise ValueError(f"Logits of all sizes at once exist for linear and cosine rows; {type(head).__name__} has none.")


@torch.no_grad()
def curves(head: Head, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """[D] mean cross-entropy and [D] accuracy of a head on the first k dimensions of [B, D], for k from 1 to D; float64, on the CPU."""
    count, width = features.shape
    chunk = max(1, AT_ONCE // (width * max(head.num_classes, 1)))
    entropy, right = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for rows, wanted in zip(features.split(chunk), labels.split(chunk), strict=True):
        logits = logits_of_sizes(head, rows)  # [D, b, C]
        targets = wanted.expand(width, -1)
        entropy += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(width, -1).double().sum(1).cpu()
        right += (logits.argmax(-1) == targets).sum(1).double().cpu()
    return entropy / count, right / count


def smallest_good_loss(entropy: Tensor) -> int:
    """The smallest k whose cross-entropy is within one percent of the smallest."""
    return int((entropy <= SLACK * entropy.min()).nonzero()[0]) + 1


def most_accurate(accuracy: Tensor) -> int:
    """The k of the highest accuracy, less what its dimensions have to be worth."""
    return int((accuracy - TIE_BREAK * torch.arange(len(accuracy))).argmax()) + 1


def check_positive(owner: str, name: str, value: float, high: float = math.inf) -> None:
    """Raise ValueError unless `value` is a number above 0 and below `high`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < high:
        raise ValueError(f"{owner}: {name} is a number above 0{'' if high == math.inf else f' and below {high:g}'}, got {value!r}.")
