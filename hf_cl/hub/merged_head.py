"""Classes merged under a head that was fitted: its statistics are merged, and it is fitted anew.

Shapes: C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_cl.checkpoints.statistics_files import STATISTICS_FILE, load_statistics, restore_training_state
from hf_cl.heads import GaussianHead, RidgeHead, build_head


def merged_head(
    folder: Path, spec: dict[str, Any], width: int, tensors: Mapping[str, Tensor], axes: Mapping[str, int], groups: Sequence[Sequence[int]]
) -> dict[str, Tensor]:
    """The head's tensors with a class for each group of old ones, as if their pictures had had one name all along.

    The Gaussian head is fitted to the merged statistics by the shrinkage, own share and temperature that its votes have chosen. Without
    `class_balance` the rows of a ridge head add up, since its targets do; with it, a ridge head whose `lam` is a number is fitted anew.

    Args:
        folder: of the adapter, with its class statistics beside it.
        spec: the `head` dict.
        width: of the features.
        tensors: the head's, by its own names.
        axes: of those that have one, the dimension that counts classes.
        groups: old classes of each new one. Classes in no group go.

    Raises ValueError where the statistics are not there, and for heads that cannot be fitted to them.
    """
    count = next(tensors[name].shape[axis] for name, axis in axes.items())
    old = build_head(spec, width, count)
    if isinstance(old, RidgeHead) and not old.class_balance:
        return {name: _summed(tensor, axes[name], groups) if name in axes else tensor for name, tensor in tensors.items()}
    if not isinstance(old, GaussianHead | RidgeHead):
        raise ValueError(
            f"A {spec['type']} head is not fitted to statistics of classes alone: two cannot be merged without their pictures. Put those "
            "into one folder and train again; renaming and dropping work under all heads."
        )
    if isinstance(old, GaussianHead) and old.texts is not None:
        raise ValueError("A head that judges by class names too has no text for a merged class; train again.")
    if isinstance(old, RidgeHead) and (old.lam == "loo" or old.map_store is not None):
        raise ValueError(
            "A ridge head's penalty is chosen by images (`lam: loo`), and under a feature map it keeps no scatter of single classes: two "
            "cannot be merged without their pictures. With `class_balance: false` its rows add up."
        )
    if not (folder / STATISTICS_FILE).is_file():
        raise ValueError(
            f"A {spec['type']} head is fitted to statistics of its classes, and merging needs them: there is no {STATISTICS_FILE} beside "
            "the adapter. The run that trained it writes it with --export_statistics, also when it goes on."
        )
    saved = load_statistics(folder)
    old.load_state_dict(dict(tensors))
    restore_training_state(old, saved.head, folder)
    dropped = sorted(set(range(len(saved.class_names))) - {label for group in groups for label in group})
    everything = [*groups, *([label] for label in dropped)]  # a sum of scatters cannot forget a class; it takes part and goes afterwards
    new = build_head(spec, width, len(everything))
    assert isinstance(new, GaussianHead | RidgeHead)
    new.take_over(old, everything)
    new.refit(saved.statistics.regrouped(everything))
    state = new.state_dict()
    return {name: state[name].narrow(axes[name], 0, len(groups)).contiguous() if name in axes else state[name] for name in tensors}


def _summed(tensor: Tensor, axis: int, groups: Sequence[Sequence[int]]) -> Tensor:
    rows = tensor.movedim(axis, 0)  # [C, ...]
    return torch.stack([rows[list(group)].double().sum(0).to(tensor.dtype) for group in groups]).movedim(0, axis).contiguous()
