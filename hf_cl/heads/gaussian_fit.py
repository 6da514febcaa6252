"""Gaussians per class in closed form: linear and regularised discriminant analysis, and a prior over class means.

Linear discriminant analysis (Fisher 1936); regularised: Friedman, "Regularized Discriminant Analysis", JASA 84, 1989; the prior over class
means: Ioffe, "Probabilistic Linear Discriminant Analysis", ECCV 2006. Equal class priors everywhere. Everything is float64 on the CPU.

Shapes: B rows, C classes, D width, k rows of a class's scatter factor, r directions, R = min(C, D).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hf_cl.memory.class_statistics import ClassStatistics

Spectra = Sequence[tuple[Tensor, Tensor, float]]
"""Of each class, in the space where the shared covariance is the identity: eigenvalues [r] of its own covariance, their directions [D, r],
and the mean eigenvalue of all other directions."""


@dataclass(frozen=True)
class Gaussians:
    """What the fits read of the class statistics."""

    counts: Tensor  # [C] float64
    means: Tensor  # [C, D]
    scatter: Tensor  # [D, D] summed over the classes
    factors: tuple[Tensor, ...] = ()  # [k, D] of each class; empty for fits of the shared covariance alone

    @staticmethod
    def of(statistics: ClassStatistics, num_classes: int, *, own: bool) -> Gaussians:
        """Of the first `num_classes` classes; `own`: with each class's own scatter.

        Raises ValueError for a class without samples.
        """
        empty = [label for label in range(num_classes) if not statistics.count(label)]
        if empty:
            raise ValueError(f"Classes {empty} have no images: a head that is fitted to statistics needs at least one of each.")
        counts = torch.tensor([statistics.count(label) for label in range(num_classes)], dtype=torch.float64)
        factors = tuple(statistics.factor(label) for label in range(num_classes)) if own else ()
        return Gaussians(counts, statistics.means(range(num_classes)), statistics.pooled_scatter(), factors)

    @property
    def width(self) -> int:
        return self.means.shape[1]

    @property
    def samples(self) -> float:
        return float(self.counts.sum())

    @property
    def center(self) -> Tensor:  # [D]
        """The mean of the class means: every score is measured from there, which changes no class's place and keeps float32's digits."""
        return self.means.mean(0)

    def rule_shrinkage(self) -> float:
        """D / (D + degrees of freedom)."""
        return self.width / (self.width + max(1.0, self.samples - len(self.counts)))

    def rule_own_shares(self) -> Tensor:
        """[C]: n_c / (n_c + 3 D), and 0 for a class of one image."""
        return self.own_shares(self.counts / (self.counts + 3 * self.width))

    def own_shares(self, share: Tensor | float) -> Tensor:
        """[C]: `share` for every class that has a covariance of its own, 0 for one of a single image."""
        return torch.where(self.counts > 1, torch.as_tensor(share, dtype=torch.float64), 0.0)

    def shared_covariance(self, shrinkage: float) -> Tensor:
        """[D, D]: the pooled covariance, shrunk towards a multiple of the identity.

        Where no class has two different images, that multiple is the spread of the class means: the nearest mean wins.
        """
        degrees = self.samples - len(self.counts)
        trace = float(self.scatter.trace())
        identity = torch.eye(self.width, dtype=torch.float64)
        if degrees <= 0 or trace <= 0:
            spread = (self.means - self.center).square().sum() / max(1, len(self.means) - 1) / self.width
            return identity * (float(spread) or 1.0)
        pooled = self.scatter / degrees  # [D, D]
        return (1 - shrinkage) * pooled + shrinkage * (trace / degrees / self.width) * identity

    def cholesky(self, shrinkage: float) -> Tensor:
        """[D, D]: L with L L^T the shared covariance. Raises ValueError where it is singular, which only a shrinkage near 0 can bring."""
        lower, failed = torch.linalg.cholesky_ex(self.shared_covariance(shrinkage))
        if failed:
            raise ValueError(
                f"The shared covariance is singular: shrinkage {shrinkage:g}, {self.samples:.0f} images of {len(self.counts)} classes, "
                f"width {self.width}. Give the head `shrinkage: rule`, or more than {shrinkage:g}."
            )
        return lower

    def with_means(self, means: Tensor) -> Gaussians:
        """The same scatters around other means [C, D]."""
        return replace(self, means=means)


def whiten(lower: Tensor, rows: Tensor) -> Tensor:
    """L^-1 of every row: [B, D] -> [B, D]."""
    return torch.linalg.solve_triangular(lower, rows.T, upper=False).T


def log_det(lower: Tensor) -> Tensor:
    """log det L L^T."""
    return 2 * lower.diagonal().log().sum()


# Shared covariance
def shared_layer(of: Gaussians, lower: Tensor) -> tuple[Tensor, Tensor]:
    """Weight [C, D] and bias [C] of linear discriminant analysis."""
    weight = torch.cholesky_solve((of.means - of.center).T, lower).T  # [C, D]
    bias = -0.5 * ((of.means - of.center) * weight).sum(1) - weight @ of.center  # [C]
    return weight, bias


# Own covariances
def own_spectra(of: Gaussians, lower: Tensor, rank: int | None = None) -> Spectra:
    """Eigenvalues and directions of every class's own covariance where the shared one is the identity.

    A scatter of n images has rank n - 1, so the eigenvalue problem is one of k rows and columns, and the spectrum beyond is exactly 0.
    With a `rank`, that many of the largest, and the mean of all others.
    """
    spectra = []
    for count, factor in zip(of.counts.tolist(), of.factors, strict=True):
        rows = whiten(lower, factor) / max(count - 1, 1) ** 0.5  # [k, D]
        values, vectors = torch.linalg.eigh(rows @ rows.T)  # [k], [k, k], ascending
        values, vectors = values.flip(0).clamp_min(0.0), vectors.flip(1)
        found = int((values > values.sum() * 1e-14).sum())  # directions beyond the rank are noise
        kept = found if rank is None else min(rank, found)
        directions = rows.T @ vectors[:, :kept] / values[:kept].sqrt()  # [D, r]
        others = of.width - (kept if rank is None else rank)
        rest = float(values[kept:].sum()) / others if rank is not None and others else 0.0
        spectra.append((values[:kept], directions, rest))
    return spectra


def own_variances(of: Gaussians, spectrum: tuple[Tensor, Tensor, float], share: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Of one class, for several own shares [S]: variances [S, r] along its directions, that of all others [S], and log det of both [S]."""
    values, _, rest = spectrum
    along = share[:, None] * values + 1 - share[:, None]  # [S, r]
    beyond = share * rest + 1 - share  # [S]
    missing = 0 if rank is None else rank - len(values)  # directions that a small class does not have: their eigenvalue is 0
    others = of.width - len(values) - missing
    return along, beyond, along.log().sum(1) + missing * (1 - share).log() + others * beyond.log()


def own_scores(of: Gaussians, lower: Tensor, spectra: Spectra, shares: Tensor, rows: Tensor, rank: int | None = None) -> Tensor:
    """[S, B, C] log densities of `rows` [B, D] up to a number that all share, own covariances mixed in with `shares` [S, C]."""
    x, means = whiten(lower, rows), whiten(lower, of.means)  # [B, D], [C, D]
    scores = []
    for mean, spectrum, share in zip(means, spectra, shares.T, strict=True):
        along, beyond, log_dets = own_variances(of, spectrum, share, rank)
        difference = x - mean  # [B, D]
        inside = (difference @ spectrum[1]).square()  # [B, r]
        outside = (difference.square().sum(1) - inside.sum(1)).clamp_min(0.0)  # [B]
        scores.append(-0.5 * ((1 / along) @ inside.T + outside / beyond[:, None] + log_dets[:, None]))  # [S, B]
    return torch.stack(scores, 2) - 0.5 * log_det(lower)


def mixed_factors(of: Gaussians, shared: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """[C, D, D] lower triangular inverse Cholesky factors of (1 - w_c) P + w_c S_c / (n_c - 1), and their log determinants [C].

    Args:
        shared: [D, D] the shared covariance P.
        shares: [C] the own shares w_c.

    Raises ValueError, naming the class by its position, where a covariance is singular.
    """
    factors, log_dets = [], []
    identity = torch.eye(of.width, dtype=torch.float64)
    for label, (share, count, factor) in enumerate(zip(shares.tolist(), of.counts.tolist(), of.factors, strict=True)):
        own = (1 - share) * shared + share * (factor.T @ factor) / max(count - 1, 1)  # [D, D]
        lower, failed = torch.linalg.cholesky_ex(own)
        if failed:
            raise ValueError(f"The covariance of class {label} ({count:.0f} images) is singular. Give the head `shrinkage: rule`.")
        factors.append(torch.linalg.solve_triangular(lower, identity, upper=False))
        log_dets.append(log_det(lower))
    return torch.stack(factors), torch.stack(log_dets)


# A prior over class means
@dataclass(frozen=True)
class Posterior:
    """Class means drawn from one Gaussian, seen through few images; in the whitened space around the center of the class means."""

    basis: Tensor  # [R, D]
    means: Tensor  # [C, R]
    variances: Tensor  # [C, R] predictive
    residuals: Tensor  # [C] predictive variance beyond the basis
    log_dets: Tensor  # [C]
    spectrum: Tensor  # [D] of the smoothed prior, descending

    def scores(self, whitened: Tensor) -> Tensor:
        """[B, C] of rows L^-1 (x - center) [B, D]."""
        q = whitened @ self.basis.T  # [B, R]
        rest = (whitened.square().sum(1) - q.square().sum(1)).clamp_min(0.0)  # [B]
        inside = ((q[:, None] - self.means).square() / self.variances).sum(-1)  # [B, C]
        return -0.5 * (inside + rest[:, None] / self.residuals + self.log_dets)


def posterior(of: Gaussians, lower: Tensor, flatness: float) -> Posterior:
    """Predictive Gaussians of all classes.

    Args:
        lower: [D, D] Cholesky factor of the shared covariance.
        flatness: beta, the share of the prior's variance that is spread evenly over all directions.
    """
    whitened = whiten(lower, of.means - of.center)  # [C, D]
    left, singular, basis = torch.linalg.svd(whitened, full_matrices=False)  # [C, R], [R], [R, D]
    if len(of.means) > 1:
        prior = (singular.square() / (len(of.means) - 1) - (1 / of.counts).mean()).clamp_min(0.0)  # [R]
    else:
        prior = torch.zeros_like(singular)
    even = flatness * prior.sum() / of.width
    prior = (1 - flatness) * prior + even
    counts = of.counts[:, None]  # [C, 1]
    means = (prior / (prior + 1 / counts)) * left * singular  # [C, R]
    variances = 1 + prior / (counts * prior + 1)
    residuals = 1 + even / (of.counts * even + 1)  # [C]
    beyond = of.width - len(basis)
    log_dets = variances.log().sum(1) + beyond * residuals.log()
    spectrum = torch.cat([prior, even.expand(beyond)]).sort(descending=True).values
    return Posterior(basis, means, variances, residuals, log_dets, spectrum)
