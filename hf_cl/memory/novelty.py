"""How unlike everything that was taught a picture is: scores for "none of these", and the file in which one travels with an adapter.

Shapes: B images, C classes, D width of the features as the head embeds them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.memory.feature_prior import ProximalNetwork, learned

Kind = Literal["prototype", "mahalanobis", "energy", "prior"]
KINDS: tuple[Kind, ...] = ("prototype", "mahalanobis", "energy", "prior")
NOVELTY_FILE = "novelty.safetensors"
"""Beside an adapter."""
SHRINKAGE = 0.05
"""Of the pooled covariance, towards a multiple of the identity."""
_FORMAT_VERSION = 1
_NETWORK = {"W0", "W1", "W2", "R0", "R1", "b0", "b1"}
_TENSORS = {
    "prototype": {"middle", "means"},
    "mahalanobis": {"whitener", "means"},
    "energy": set(),
    "prior": {"middle", "projection", *_NETWORK},
}
STATISTICS: dict[Kind, frozenset[str]] = {"mahalanobis": frozenset({"pooled"}), "prior": frozenset({"low_rank"})}
"""What a kind is fitted to, beside class means."""
_DIMENSIONS = 32
"""Principal components of which a prior is learned."""
_DRAWS = 4000
"""Rows that a prior is learned of, of all classes together."""


@dataclass(frozen=True)
class NoveltyScore:
    """A score that is high for pictures of classes which nobody has taught, and from where on it means "none of these"."""

    kind: Kind
    """"prototype": minus the largest cosine to a class mean, both measured from the middle of all means. "mahalanobis": the smallest
    distance to a class mean under the pooled covariance. "energy": minus the logsumexp of the logits (Liu et al., NeurIPS 2020). "prior":
    minus the logarithm of a learned prior (`hf_cl.memory.feature_prior`)."""
    classes: int
    """C"""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """middle [D] and means [C, D]; whitener [D, D] and means [C, D], whitened; or middle [D], projection [k, D] and a network's weights."""
    threshold: float = math.inf
    auroc: float | None = None
    """Of the run, where it met images of classes before they were taught."""

    def __call__(self, embedding: Tensor, logits: Tensor) -> Tensor:
        """[B, D], [B, C or more] -> [B]; logits are the head's own, not divided by a temperature."""
        if self.kind == "energy":
            return -logits[:, : self.classes].float().logsumexp(-1)
        if self.kind == "prior":
            return self._prior(embedding)
        rows, means = embedding.float(), self.tensors["means"].to(embedding.device)
        if self.kind == "prototype":
            return -(F.normalize(rows - self.tensors["middle"].to(rows.device), dim=-1) @ means.T).amax(-1)
        return torch.cdist(rows @ self.tensors["whitener"].to(rows.device).T, means).amin(-1)

    @torch.no_grad()
    def _prior(self, embedding: Tensor) -> Tensor:  # [B, D] -> [B]
        held = {name: tensor.to(embedding.device).double() for name, tensor in self.tensors.items()}
        network = ProximalNetwork(**{name: held[name] for name in _NETWORK})
        return -network.log_prior((embedding.double() - held["middle"]) @ held["projection"].T).float()

    def to_bytes(self) -> bytes:
        """The content of its file."""
        facts = {"format_version": _FORMAT_VERSION, "kind": self.kind, "classes": self.classes}
        facts |= {"threshold": self.threshold, "auroc": self.auroc}
        held = dict(self.tensors) or {"nothing": torch.zeros(1)}
        # one entry, since safetensors writes several in an order of chance, and equal runs have equal files
        return save({name: tensor.contiguous() for name, tensor in held.items()}, {"novelty": json.dumps(facts)})


def fitted_score(kind: Kind, statistics: ClassStatistics, classes: int) -> NoveltyScore:
    """The score of the first `classes` classes, of statistics with the kinds that `STATISTICS` names. A prior is learned of draws from the
    Gaussians of the classes, the same whenever it is asked for.

    Raises ValueError for one class, where "none of these" has nothing to be measured by.
    """
    if classes < 2:
        raise ValueError("A novelty score compares with several classes; there is one alone.")
    if kind == "energy":
        return NoveltyScore(kind, classes)
    if kind == "prior":
        return NoveltyScore(kind, classes, _learned_prior(statistics, classes))
    means = statistics.means(range(classes))  # [C, D]
    if kind == "prototype":
        middle = means.mean(0)
        return NoveltyScore(kind, classes, {"middle": middle.float(), "means": F.normalize(means - middle, dim=-1).float()})
    covariance = statistics.pooled_scatter() / max(1, sum(statistics.count(label) for label in range(classes)) - classes)
    width = len(covariance)
    ridge = (SHRINKAGE * covariance.trace() / width).clamp_min(1e-12)
    shrunk = (1 - SHRINKAGE) * covariance + ridge * torch.eye(width, dtype=covariance.dtype)
    identity = torch.eye(width, dtype=covariance.dtype)
    whitener = torch.linalg.solve_triangular(torch.linalg.cholesky(shrunk), identity, upper=False)  # [D, D]
    return NoveltyScore(kind, classes, {"whitener": whitener.float(), "means": (means @ whitener.T).float()})


def _learned_prior(statistics: ClassStatistics, classes: int) -> dict[str, Tensor]:
    """middle [D], projection [k, D] onto whitened principal components, and the network's weights; float32."""
    generator = torch.Generator().manual_seed(0)
    each = max(2, _DRAWS // classes)
    rows = torch.cat([statistics.sample(label, each, generator) for label in range(classes)])  # [n, D] float64
    middle = rows.mean(0)
    _, values, vectors = torch.linalg.svd(rows - middle, full_matrices=False)
    kept = int((values[:_DIMENSIONS] > 1e-6 * values[0]).sum())
    projection = vectors[:kept] * (len(rows) ** 0.5 / values[:kept, None])  # [k, D]
    network = learned((rows - middle) @ projection.T, generator)
    return {name: tensor.float() for name, tensor in ({"middle": middle, "projection": projection} | network.tensors()).items()}


def read_novelty(folder: Path, classes: int) -> NoveltyScore | None:
    """The score beside the adapter in `folder`, which has so many classes; None where there is none.

    Raises ValueError, naming the file, for one that is damaged, newer than this hf_cl, or of another number of classes.
    """
    path = folder / NOVELTY_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as opened:
            facts: Any = json.loads((opened.metadata() or {}).get("novelty", "null"))
        tensors = load_file(path)
        if not isinstance(facts, dict) or facts.get("kind") not in _TENSORS or facts.get("format_version") != _FORMAT_VERSION:
            raise ValueError("it is no novelty score of this version.")
        kind: Kind = facts["kind"]
        held = {name: tensors[name] for name in _TENSORS[kind]}
        if facts["classes"] != classes or any(len(held[name]) != classes for name in held if name == "means"):
            raise ValueError(f"it is of {facts['classes']} classes, and the adapter has {classes}.")
        auroc = facts["auroc"]
        return NoveltyScore(kind, classes, held, float(facts["threshold"]), None if auroc is None else float(auroc))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as a novelty score: {error}") from error
