"""The reference numbers of the Gaussian head, and the statistics that lead to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_cl.memory import ClassStatistics

REFERENCE = np.load(Path(__file__).parent / "reference" / "gaussian_head" / "gaussian.npz")
CLASSES = (4, 7, 9)
"""Classes seen after each session."""


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def value(name: str) -> float:
    return REFERENCE[name].item()


def rows_of(session: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and labels of one session."""
    mine = reference("session") == session
    return reference("features")[mine], reference("labels")[mine]


def statistics_after(session: int) -> ClassStatistics:
    """Counted session by session, as a run does."""
    statistics = ClassStatistics({"pooled", "full"})
    for i in range(session + 1):
        statistics.count_session(i, *rows_of(i))
    return statistics


def close(mine: torch.Tensor, name: str, tolerance: float = 1e-9) -> None:
    """Within `tolerance` of the largest entry."""
    wanted = reference(name)
    assert mine.shape == wanted.shape, f"{name}: {tuple(mine.shape)}, not {tuple(wanted.shape)}"
    error = float((mine - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))
    assert error < tolerance, f"{name}: off by {error:.1e} of the largest entry"
