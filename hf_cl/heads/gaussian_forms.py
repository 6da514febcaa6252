"""The fitted tensors of a Gaussian head, one form per kind of covariance, and the log densities that they give.

Each form is a module with buffers of float32 whose shapes follow from width, number of classes and the head's settings. NaN: not fitted.

Shapes: B batch, C classes, D width, r directions, R = min(C, D), P = D (D + 1) / 2 entries of a packed lower triangle.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.heads.gaussian_fit import Gaussians, log_det, mixed_factors, own_spectra, own_variances, posterior, shared_layer
from hf_cl.heads.gaussian_votes import Form

CHUNK = 32
"""Classes whose factors are unpacked at a time."""


def pack(lower: Tensor) -> Tensor:
    """[..., D, D] -> [..., P]: the lower triangle, row by row."""
    rows, columns = torch.tril_indices(lower.shape[-1], lower.shape[-1], device=lower.device)
    return lower[..., rows, columns]


def unpack(packed: Tensor, width: int) -> Tensor:
    """[..., P] -> [..., D, D]."""
    rows, columns = torch.tril_indices(width, width, device=packed.device)
    lower = packed.new_zeros(*packed.shape[:-1], width, width)
    lower[..., rows, columns] = packed
    return lower


def triangle(width: int) -> int:
    """Entries of a packed lower triangle."""
    return width * (width + 1) // 2


def inverse_cholesky(lower: Tensor) -> Tensor:
    """[D, D] L^-1."""
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)


class GaussianForm(nn.Module):
    """Base: buffers with a row per class (`per_class`) grow, all are written by `fit` and hold NaN before."""

    def __init__(self, width: int, **factory: Any) -> None:
        super().__init__()
        self.width, self.num_classes, self.factory = width, 0, factory

    def shapes(self, num_classes: int) -> Mapping[str, tuple[int, ...]]:
        """Of the buffers for so many classes."""
        raise NotImplementedError(f"{type(self).__name__} does not implement shapes")

    def grow(self, num_classes: int) -> None:
        """To so many classes: everything is fitted anew at the end of a session, so rows keep their values only until then."""
        for name, shape in self.shapes(num_classes).items():
            old = self._buffers.get(name)
            new = torch.full(shape, torch.nan, **self.factory) if old is None else old.new_full(shape, torch.nan)
            if old is not None and old.ndim == len(shape):
                kept = tuple(slice(0, min(a, b)) for a, b in zip(old.shape, shape, strict=True))
                new[kept] = old[kept]
            self.register_buffer(name, new)
        self.num_classes = num_classes

    def write(self, **fitted: Tensor) -> None:
        """Put results of a fit into the buffers."""
        for name, tensor in fitted.items():
            getattr(self, name).copy_(tensor)

    def fitted(self) -> Tensor:
        """[C] bool: which classes have been fitted."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fitted")

    def fit(self, of: Gaussians, shrinkage: float, shares: Tensor) -> None:
        """Of all classes, with own shares [C]. Raises ValueError where a covariance is singular."""
        raise NotImplementedError(f"{type(self).__name__} does not implement fit")

    def scores(self, rows: Tensor, means: Tensor) -> Tensor:
        """[B, C] of `rows` [B, D] and class means [C, D]."""
        raise NotImplementedError(f"{type(self).__name__} does not implement scores")

    def layer(self, means: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weight [C, D] and bias [C] with the same scores up to a number per row, where there are such."""
        return None


class SharedForm(GaussianForm):
    """One covariance: a linear layer."""

    linear_weight: Tensor
    linear_bias: Tensor

    def shapes(self, num_classes: int) -> Mapping[str, tuple[int, ...]]:
        return {"linear_weight": (num_classes, self.width), "linear_bias": (num_classes,)}

    def fitted(self) -> Tensor:
        return ~self.linear_bias.isnan()

    def fit(self, of: Gaussians, shrinkage: float, shares: Tensor) -> None:
        weight, bias = shared_layer(of, of.cholesky(shrinkage))
        self.write(linear_weight=weight, linear_bias=bias)

    def scores(self, rows: Tensor, means: Tensor) -> Tensor:
        return nn.functional.linear(rows, self.linear_weight, self.linear_bias)

    def layer(self, means: Tensor) -> tuple[Tensor, Tensor] | None:
        return self.linear_weight, self.linear_bias


class QuadraticForm(GaussianForm):
    """Base of forms with a log determinant per class."""

    log_dets: Tensor

    def fitted(self) -> Tensor:
        return ~self.log_dets.isnan()


class MixedForm(QuadraticForm):
    """A share of each class's own covariance: the inverse of its Cholesky factor."""

    factors: Tensor

    def shapes(self, num_classes: int) -> Mapping[str, tuple[int, ...]]:
        return {"factors": (num_classes, triangle(self.width)), "log_dets": (num_classes,)}

    def fit(self, of: Gaussians, shrinkage: float, shares: Tensor) -> None:
        factors, log_dets = mixed_factors(of, of.shared_covariance(shrinkage), shares)
        self.write(factors=pack(factors), log_dets=log_dets)

    def scores(self, rows: Tensor, means: Tensor) -> Tensor:
        distances = []
        for packed, some in zip(self.factors.split(CHUNK), means.split(CHUNK), strict=True):
            difference = rows - some[:, None]  # [c, B, D]
            distances.append((difference @ unpack(packed, self.width).mT).square().sum(-1))  # [c, B]
        return -0.5 * (torch.cat(distances).T + self.log_dets)  # [B, C]

    def layer(self, means: Tensor) -> tuple[Tensor, Tensor] | None:
        if not (self.factors == self.factors[:1]).all():
            return None
        inverse = unpack(self.factors[0].double(), self.width)  # [D, D]
        center = means.double().mean(0)
        weight = (means.double() - center) @ inverse.T @ inverse  # [C, D]
        return weight, -0.5 * ((means.double() - center) * weight).sum(1) - weight @ center


class LowRankForm(QuadraticForm):
    """A share of each class's own covariance, kept as its largest directions where the shared one is the identity."""

    whitener: Tensor
    directions: Tensor
    variances: Tensor
    residuals: Tensor

    def __init__(self, width: int, rank: int, **factory: Any) -> None:
        super().__init__(width, **factory)
        self.rank = rank

    def shapes(self, num_classes: int) -> Mapping[str, tuple[int, ...]]:
        return {
            "whitener": (triangle(self.width),),
            "directions": (num_classes, self.rank, self.width),
            "variances": (num_classes, self.rank),
            "residuals": (num_classes,),
            "log_dets": (num_classes,),
        }

    def fit(self, of: Gaussians, shrinkage: float, shares: Tensor) -> None:
        lower = of.cholesky(shrinkage)
        self.directions.zero_()
        self.variances.fill_(1.0)
        for label, spectrum in enumerate(own_spectra(of, lower, self.rank)):
            along, beyond, logs = own_variances(of, spectrum, shares[label : label + 1], self.rank)
            kept = along.shape[1]
            self.directions[label, :kept] = spectrum[1].T.to(self.directions)
            self.variances[label, :kept] = along[0].to(self.variances)
            self.residuals[label], self.log_dets[label] = beyond[0], logs[0] + log_det(lower)
        self.write(whitener=pack(inverse_cholesky(lower)))

    def scores(self, rows: Tensor, means: Tensor) -> Tensor:
        whitener = unpack(self.whitener, self.width)  # [D, D]
        distances = []
        parts = (means, self.directions, self.variances, self.residuals)
        for some, directions, variances, residuals in zip(*(part.split(CHUNK) for part in parts), strict=True):
            difference = (rows - some[:, None]) @ whitener.T  # [c, B, D]
            inside = (difference @ directions.mT).square()  # [c, B, r]
            outside = (difference.square().sum(-1) - inside.sum(-1)).clamp_min(0.0)  # [c, B]
            distances.append((inside / variances[:, None]).sum(-1) + outside / residuals[:, None])
        return -0.5 * (torch.cat(distances).T + self.log_dets)  # [B, C]


class PriorForm(QuadraticForm):
    """One covariance and a prior over class means: predictive Gaussians."""

    center: Tensor
    whitener: Tensor
    basis: Tensor
    posterior_means: Tensor
    variances: Tensor
    residuals: Tensor

    def __init__(self, width: int, flatness: float, **factory: Any) -> None:
        super().__init__(width, **factory)
        self.flatness = flatness

    def shapes(self, num_classes: int) -> Mapping[str, tuple[int, ...]]:
        rank = min(num_classes, self.width)
        return {
            "center": (self.width,),
            "whitener": (triangle(self.width),),
            "basis": (rank, self.width),
            "posterior_means": (num_classes, rank),
            "variances": (num_classes, rank),
            "residuals": (num_classes,),
            "log_dets": (num_classes,),
        }

    def grow(self, num_classes: int) -> None:
        known = (self.num_classes, min(self.num_classes, self.width))
        super().grow(num_classes)
        if known[1]:  # directions that the last fit did not have change none of its scores
            self.basis[known[1] :].zero_()
            self.posterior_means[: known[0], known[1] :].zero_()
            self.variances[: known[0], known[1] :].fill_(1.0)

    def fit(self, of: Gaussians, shrinkage: float, shares: Tensor) -> None:
        lower = of.cholesky(shrinkage)
        found = posterior(of, lower, self.flatness)
        self.write(center=of.center, whitener=pack(inverse_cholesky(lower)), basis=found.basis, posterior_means=found.means)
        self.write(variances=found.variances, residuals=found.residuals, log_dets=found.log_dets)

    def scores(self, rows: Tensor, means: Tensor) -> Tensor:
        whitened = (rows - self.center) @ unpack(self.whitener, self.width).T  # [B, D]
        q = whitened @ self.basis.T  # [B, R]
        rest = (whitened.square().sum(1) - q.square().sum(1)).clamp_min(0.0)  # [B]
        parts = zip(self.posterior_means.split(CHUNK), self.variances.split(CHUNK), strict=True)
        inside = torch.cat([((q[:, None] - means).square() / variances).sum(-1) for means, variances in parts], 1)  # [B, C]
        return -0.5 * (inside + rest[:, None] / self.residuals + self.log_dets)

    def layer(self, means: Tensor) -> tuple[Tensor, Tensor] | None:
        if not (self.variances == self.variances[:1]).all():  # classes of unequal size: quadratic
            return None
        per_direction = self.posterior_means.double() / self.variances.double()  # [C, R]
        weight = per_direction @ self.basis.double() @ unpack(self.whitener.double(), self.width)  # [C, D]
        return weight, -0.5 * (per_direction * self.posterior_means.double()).sum(1) - weight @ self.center.double()


def make_form(form: Form, width: int, **factory: Any) -> GaussianForm:
    """The module for a kind of covariance."""
    if form.flatness is not None:
        return PriorForm(width, form.flatness, **factory)
    if form.covariance == "low_rank":
        assert form.rank is not None
        return LowRankForm(width, form.rank, **factory)
    return SharedForm(width, **factory) if form.covariance == "shared" else MixedForm(width, **factory)
