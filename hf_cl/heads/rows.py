"""Class rows: how they begin and how they are appended.

Shapes: C classes, D feature width, n new classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_cl.contracts import Head


def append_rows(parameter: nn.Parameter, shape: Sequence[int], in_features: int) -> nn.Parameter:
    """A longer parameter: the old rows with their values to the bit, then `shape[0]` new ones.

    New entries are uniform in +-1/sqrt(in_features), for weights and biases alike: how `nn.Linear` begins. Device, dtype and
    `requires_grad` are the old parameter's.
    """
    bound = 1 / math.sqrt(in_features)
    new: Tensor = torch.empty(*shape, device=parameter.device, dtype=parameter.dtype).uniform_(-bound, bound)  # [n, D] or [n]
    return nn.Parameter(torch.cat([parameter.detach(), new]), requires_grad=parameter.requires_grad)  # [C + n, D] or [C + n]


def class_rows(head: Head) -> dict[str, nn.Parameter]:
    """Name -> parameter with one row per class: [C, D] and [C] of a linear head; empty where a head keeps its classes otherwise."""
    return {name: p for name, p in head.named_parameters(recurse=False) if name in ("weight", "bias")}
