"""What traces over the epochs of a session say: whether it was trained too long, and what was learned by heart.

Epochs count from 0. A trace has a value for each epoch that was looked at, the last one always among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HALF, ALL = 0.5, 0.8
"""Accuracy on suspected labels from which they begin to be memorised, and from which they are."""
LEARNED = 0.9
"""Accuracy on the other labels from which these are learned."""


def validation_summary(losses: Sequence[float], accuracies: Sequence[float], epochs: Sequence[int] | None = None) -> dict[str, Any]:
    """`best_epoch` (least loss), `degradation` (last loss less the least), `relative_degradation` (by the least), `accuracy_lost` (largest
    less last) and `epochs_wasted` (epochs after the best one) of a session's validation.

    Args:
        losses, accuracies: by epoch.
        epochs: which epochs they are of; None: every one.
    """
    if not losses:
        keys = ("best_epoch", "degradation", "relative_degradation", "accuracy_lost", "epochs_wasted")
        return dict.fromkeys(keys)
    numbers = range(len(losses)) if epochs is None else epochs
    least = min(losses)
    best = numbers[losses.index(least)]
    return {
        "best_epoch": best,
        "degradation": losses[-1] - least,
        "relative_degradation": (losses[-1] - least) / least if least > 0 else None,
        "accuracy_lost": max(accuracies) - accuracies[-1],
        "epochs_wasted": numbers[-1] - best,
    }


def memorisation_summary(suspects: Sequence[float], others: Sequence[float], epochs: Sequence[int] | None = None) -> dict[str, Any]:
    """`memorised` (last training accuracy on suspected labels), `memorised_from` (first epoch with half of them), `others_learned` (first
    epoch with nine tenths of the others); None where it never came.

    Args:
        suspects, others: training accuracy on suspected and on other labels by epoch; empty where there are no suspects.
        epochs: which epochs they are of; None: every one.
    """
    numbers = range(max(len(suspects), len(others))) if epochs is None else epochs

    def first(trace: Sequence[float], least: float) -> int | None:
        return next((epoch for epoch, value in zip(numbers, trace, strict=True) if value >= least), None)

    return {
        "memorised": suspects[-1] if suspects else None,
        "memorised_from": first(suspects, HALF) if suspects else None,
        "others_learned": first(others, LEARNED) if others else None,
    }
