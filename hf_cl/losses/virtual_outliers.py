"""OVOR's virtual outlier regularization: the loss term and the synthesis of outliers.

Huang, Chen, Hsu: "OVOR: OnePrompt with Virtual Outlier Regularization for Rehearsal-Free Class-Incremental Learning", ICLR 2024;
official code: github.com/jpmorganchase/ovor (learners/ood.py, learners/default.py).

Shapes: B batch, C classes seen so far, c classes of the session, D feature width, n features, q queries, M draws (`num_offsets`),
S boundary points (`num_boundary`), O outliers kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, Head, LossTerm, Session, Trainer
from hf_cl.losses.replayed import mean_of_own

Mode = Literal["npos", "official"]
Penalty = Literal["huber", "mse"]

_CHUNK = 2**24
"""Distances held at once (64 MB in float32)."""


def vor_penalty(
    logits: Tensor,
    outlier_logits: Tensor,
    *,
    tau_id: float = -15.0,
    tau_ood: float = -3.0,
    penalty: Penalty = "huber",
    mean: Callable[[Tensor], Tensor] = torch.mean,
) -> Tensor:
    """Hinges on the energy E = -logsumexp: that of features below `tau_id`, that of outliers above `tau_ood`.

    `mean h(relu(E(logits) - tau_id)) + mean h(relu(tau_ood - E(outlier_logits)))`, h = Huber with delta 1, or the square.

    Args:
        logits: [B, c] of real features, columns of the session's classes.
        outlier_logits: [any, c] of outliers, the same columns.
        mean: over the real features.

    Returns a scalar, not yet multiplied by the term's weight.
    """
    excess = F.relu(-logits.logsumexp(-1) - tau_id)  # [B]
    lack = F.relu(tau_ood + outlier_logits.logsumexp(-1))  # [any]
    distance = F.huber_loss if penalty == "huber" else F.mse_loss
    real = mean(distance(excess, torch.zeros_like(excess), reduction="none"))
    return real + distance(lack, torch.zeros_like(lack))


def kth_squared_distance(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """[q] squared distance of each query [q, D] to its k-th nearest vector of the bank [n, D]; k is cut to n."""
    k = min(k, len(bank))
    rows = max(1, _CHUNK // len(bank))
    distances = [torch.cdist(chunk, bank).topk(k, largest=False, sorted=False).values.amax(1) for chunk in queries.split(rows)]
    return torch.cat(distances).square()  # [q]


class Outliers(NamedTuple):
    """Synthesized outliers and where they come from."""

    vectors: Tensor
    """[O, D], not normalised."""
    boundary: Tensor
    """[S] positions of the boundary points among the features."""
    candidates: Tensor
    """[O] number j of each outlier among the candidates: boundary point j // M, draw j % M."""


@torch.no_grad()
def synthesize_outliers(
    features: Tensor,
    offsets: Tensor,
    num_classes: int,
    *,
    k: int = 50,
    num_boundary: int = 50,
    per_class: int = 40,
    std: float = 0.1,
    mode: Mode = "npos",
) -> Outliers:
    """Draws around the features farthest from their neighbours; of these, the draws farthest from all features.

    The bank is the features at unit length. Boundary points are the S features whose k-th neighbour in the bank is farthest.

    - "npos": candidates are `feature + std * offset`; the best ceil(P c / S) of each boundary point by the distance of the candidate at
      unit length, then the P c best of these. The rule of NPOS (Tao et al., "Non-Parametric Outlier Synthesis", ICLR 2023), which OVOR
      names as its source.
    - "official": OVOR's code as it runs. The boundary points are found and then not used: candidates are `std * offset` around the
      origin, each S times, and the P c farthest by their raw distance are kept, so each kept draw occurs up to S times.

    Args:
        features: [n, D] of the session.
        offsets: [M, D] draws from N(0, I).
        num_classes: c, classes of the session.
        k: which neighbour, the feature itself included; cut to n.
        num_boundary: S; cut to n.
        per_class: P; min(M S, P c) outliers are kept.
        std: multiplies the draws.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    draws = std * offsets.to(features)  # [M, D]
    bank = F.normalize(features)  # [n, D]
    boundary = kth_squared_distance(bank, bank, k).topk(min(num_boundary, len(bank))).indices  # [S]
    kept = min(len(boundary) * len(draws), per_class * num_classes)
    if mode == "official":
        distance = kth_squared_distance(draws, bank, k).repeat(len(boundary))  # [S * M]
        candidates = distance.topk(kept).indices  # [O]
        return Outliers(draws[candidates % len(draws)], boundary, candidates)
    points = (features[boundary, None] + draws).flatten(0, 1)  # [S, 1, D] + [M, D] -> [S * M, D]
    distance = kth_squared_distance(F.normalize(points), bank, k)  # [S * M]
    best_of_each = distance.view(len(boundary), -1).topk(math.ceil(kept / len(boundary))).indices
    starts = len(draws) * torch.arange(len(boundary), device=features.device)
    pool = (best_of_each + starts[:, None]).flatten()  # [S * ceil(P c / S)]
    candidates = pool[distance[pool].topk(kept).indices]  # [O]
    return Outliers(points[candidates], boundary, candidates)


class VirtualOutliers(LossTerm):
    """Virtual outlier regularization: low energy for the session's features, high energy for outliers made from them.

    Belongs in a phase that trains the head alone on features. At the start of each epoch outliers are synthesized from the session's
    features, drawn as the epoch's training augmentation draws them, and spread over the epoch's steps: each takes the next slice,
    cyclically. Energies are those of the session's own columns and of its own images: a replayed one is of none of these classes.
    Evaluating the term twice in a step uses the same slice.

    With several processes all synthesize the same outliers from the same draws, and each runs the whole slice: their losses are weighted
    by uneven shares of the real features, and only what all have in common comes out of that unchanged.

    Args:
        mode, k, num_boundary, per_class, std: of `synthesize_outliers`.
        num_offsets: M, Gaussian draws per epoch.
        tau_id, tau_ood, penalty: of `vor_penalty`.
        weight: the regularizer's lambda: a number, or a function of the phase's epoch.

    Raises ValueError for settings out of range, and at the start of a session that has a class without images.
    """

    name = "virtual_outliers"

    def __init__(
        self,
        *,
        mode: Mode = "npos",
        k: int = 50,
        num_offsets: int = 600,
        num_boundary: int = 50,
        per_class: int = 40,
        std: float = 0.1,
        tau_id: float = -15.0,
        tau_ood: float = -3.0,
        penalty: Penalty = "huber",
        weight: float | Callable[[int], float] = 0.1,
    ) -> None:
        if mode not in ("npos", "official"):
            raise ValueError(f"VirtualOutliers: mode must be 'npos' or 'official', got {mode!r}.")
        if penalty not in ("huber", "mse"):
            raise ValueError(f"VirtualOutliers: penalty must be 'huber' or 'mse', got {penalty!r}.")
        counts = {"k": k, "num_offsets": num_offsets, "num_boundary": num_boundary, "per_class": per_class}
        for name, value in {**counts, "std": std}.items():
            if not value > 0:
                raise ValueError(f"VirtualOutliers: {name} must be positive, got {value}.")
        self.mode: Mode = mode
        self.k, self.num_offsets, self.num_boundary, self.per_class, self.std = k, num_offsets, num_boundary, per_class, std
        self.tau_id, self.tau_ood = tau_id, tau_ood
        self.penalty: Penalty = penalty
        self.weight = weight
        self._device = torch.device("cpu")
        self._outliers: Tensor | None = None
        self._slice_size = self._step = 0

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        present = set(session.train.labels)
        empty = [name for label, name in enumerate(session.class_names) if label >= session.first_new_class and label not in present]
        if empty:
            raise ValueError(f"VirtualOutliers: session {session.id} has no training images of {empty[:5]}; outliers need every class.")
        self._head: Head = trainer.head
        self._first, self._num_classes = session.own.start, len(session.own)
        self._device = trainer.accelerator.device
        self._outliers = None

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        features = trainer.features_of(trainer.session.train, augment=True).features  # [n, D]
        self._outliers = self.synthesize(features, trainer)  # [O, D]
        self._slice_size = max(1, len(self._outliers) // trainer.session.steps_per_epoch(trainer.phase.batch_size))
        self._step = 0

    def synthesize(self, features: Tensor, trainer: Trainer) -> Tensor:
        """[n, D] features of the session -> [O, D] outliers of an epoch, the same on every process. A subclass may have its own."""
        offsets = torch.randn(self.num_offsets, features.shape[1], generator=trainer.generator)  # [M, D]
        return synthesize_outliers(
            features,
            offsets,
            self._num_classes,
            k=self.k,
            num_boundary=self.num_boundary,
            per_class=self.per_class,
            std=self.std,
            mode=self.mode,
        ).vectors

    def __call__(self, ctx: Context) -> Tensor:
        return vor_penalty(
            ctx.logits[:, self._first :],
            self._head(self._slice())[:, self._first :],
            tau_id=self.tau_id,
            tau_ood=self.tau_ood,
            penalty=self.penalty,
            mean=partial(mean_of_own, ctx=ctx),
        )

    def _slice(self) -> Tensor:
        """[slice, D] the outliers of the present step."""
        if self._outliers is None:
            raise RuntimeError("VirtualOutliers: there are no outliers before begin_epoch.")
        positions = torch.arange(self._slice_size, device=self._outliers.device)
        return self._outliers[(positions + self._step * self._slice_size) % len(self._outliers)]

    def after_step(self, trainer: Trainer) -> None:
        self._step += 1

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._outliers = None  # no checkpoint between sessions needs them

    def state_dict(self) -> dict[str, Any]:
        return {"outliers": self._outliers, "slice_size": self._slice_size, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        outliers = state["outliers"]
        self._outliers = None if outliers is None else outliers.to(self._device)
        self._slice_size, self._step = state["slice_size"], state["step"]
