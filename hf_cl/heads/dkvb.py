"""The discrete key-value bottleneck: frozen keys choose which values are trained.

Shapes: B batch, C classes seen so far, D feature width, H codebooks, K keys of each, d width of a key, k nearest keys.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part, Session, Trainer
from hf_cl.heads.fitted import check_count, check_number, own_rows

logger = logging.getLogger(__name__)

BATCH = 256
CHECKED = 3
"""Steps of a session that are checked: decay moves values in the first, momentum in the second."""
REVIVED_BELOW = 1e-3
"""A key's moving count of samples below which it is drawn anew."""


class DKVBHead(Head, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """Features are projected into H small spaces; in each the nearest key is chosen; the logits are the mean of the chosen keys' values.

    Träuble et al., "Discrete Key-Value Bottleneck", ICML 2023. Training moves the values of chosen keys alone, so classes that live
    elsewhere are left as they are, without session boundaries and without a memory. Keys are placed in session 0 by exponential moving
    averages over its features (van den Oord et al., NeurIPS 2017) and then stand still, so nothing before the head may train. Only plain
    SGD moves chosen values alone: momentum, Adam and weight decay are noticed after the first step and refused.

    Args:
        codebooks: H.
        keys: K.
        key_dim: d.
        top_k: k, the values of so many nearest keys are averaged.
        projection: "random": N(0, 1 / D) from `projection_seed`; "split": slices of the feature, of width D / H.
        ema_decay, init_epochs: of the keys' placement.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these.
    """

    keys: Tensor
    """[H, K, d]"""
    projection: Tensor
    """[H, D, d]"""
    visited: Tensor
    """[H, K] bool: keys that this process's images have chosen in the session."""
    chosen: Tensor
    """[H, K] bool: in the present step."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        codebooks: int = 64,
        keys: int = 256,
        key_dim: int = 8,
        top_k: int = 1,
        projection: Literal["random", "split"] = "random",
        projection_seed: int = 0,
        ema_decay: float = 0.95,
        init_epochs: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = "DKVBHead"
        check_count(name, "codebooks", codebooks, 1, 2**16)
        check_count(name, "keys", keys, 1, 2**20)
        check_count(name, "key_dim", key_dim, 1, in_features)
        check_count(name, "top_k", top_k, 1, keys)
        check_count(name, "init_epochs", init_epochs, 0, 1000)
        check_number(name, "ema_decay", ema_decay, 0.0, 1.0, "a number from 0 to below 1")
        if projection == "split":
            if in_features % codebooks:
                raise ValueError(f"{name}: features of width {in_features} cannot be split into {codebooks} codebooks.")
            key_dim = in_features // codebooks
        self.in_features, self.num_classes, self.top_k = in_features, num_classes, top_k
        self.ema_decay, self.init_epochs = ema_decay, init_epochs
        self.values = nn.Parameter(torch.zeros(codebooks, keys, num_classes, device=device, dtype=dtype))  # [H, K, C]
        factory: Any = {"device": self.values.device, "dtype": self.values.dtype}  # peft puts parameters alone on the meta device
        self.register_buffer("keys", torch.zeros(codebooks, keys, key_dim, **factory))
        self.register_buffer("projection", _projection(projection, codebooks, in_features, key_dim, projection_seed).to(**factory))
        for name in ("visited", "chosen"):
            self.register_buffer(name, torch.zeros(codebooks, keys, dtype=torch.bool, device="cpu"), persistent=False)
        self._start: Tensor | None = None
        self._unchecked = 0

    def grow(self, class_names: Sequence[str]) -> None:
        zeros = self.values.new_zeros(*self.values.shape[:2], len(class_names))
        self.values = nn.Parameter(torch.cat([self.values.detach(), zeros], 2), requires_grad=self.values.requires_grad)
        self.num_classes += len(class_names)

    def project(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, H, d]."""
        return torch.einsum("bd,hde->bhe", features, self.projection)

    def nearest(self, features: Tensor) -> Tensor:
        """[B, H, k] numbers of the nearest keys, the nearest first; of equally near ones the smallest."""
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return nearest_keys(self.project(features.to(self.keys.dtype)), self.keys, self.top_k)

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        chosen = self.nearest(features)  # [B, H, k]
        codebooks, keys, classes = self.values.shape
        rows = chosen + keys * torch.arange(codebooks, device=chosen.device)[:, None]  # of the values as one table
        if self.training:
            self.chosen.view(-1)[rows.flatten()] = True
        if not classes:
            return features.new_zeros(len(features), 0)
        return F.embedding_bag(rows.flatten(1), self.values.view(codebooks * keys, classes), mode="mean")

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """In session 0, keys from its features."""
        self.visited.zero_()
        self.chosen.zero_()
        self._start, self._unchecked = None, CHECKED
        if session.id == 0:
            features = own_rows(trainer, session)[0]
            generator = trainer.generator_for("dkvb keys")
            self.keys.copy_(place_keys(self.project(features.to(self.keys)).cpu().double(), self, generator))

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Values to check the first steps against: only now, since a resumed session begins before its values are restored."""
        self._start = self.values.detach().clone() if self._unchecked else None

    def after_step(self, trainer: Trainer) -> None:
        """In a session's first steps: values of keys that no image chose in the step must be where they were, and nothing before the head
        may train.

        Raises ValueError otherwise.
        """
        self.visited |= self.chosen
        if self._start is None:
            self.chosen.zero_()
            return
        trained = [name for name, p in trainer.named_parameters if p.requires_grad and not name.startswith(("head.", "losses."))]
        if trained:
            raise ValueError(f"The keys of a dkvb head belong to features that stand still, and {trained[0]} trains: train the head alone.")
        everywhere = trainer.accelerator.reduce(self.chosen.to(self.values), "sum") > 0  # [H, K]
        moved = (self.values.detach() != self._start).any(2) & ~everywhere
        self.chosen.zero_()
        self._unchecked -= 1
        self._start = self.values.detach().clone() if self._unchecked else None
        if moved.any():
            raise ValueError(f"{int(moved.sum())} values moved that no image had chosen: a dkvb head needs SGD without momentum and decay.")


def _projection(kind: str, codebooks: int, width: int, key_dim: int, seed: int) -> Tensor:
    """[H, D, d]."""
    if kind == "random":
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(codebooks, width, key_dim, generator=generator, device="cpu") / width**0.5
    slices = torch.eye(width, device="cpu").view(width, codebooks, key_dim)
    return slices.permute(1, 0, 2).contiguous()


def nearest_keys(points: Tensor, keys: Tensor, top_k: int) -> Tensor:
    """[B, H, k] numbers of the nearest of `keys` [H, K, d] to `points` [B, H, d]."""
    found = []
    for h in range(len(keys)):  # one codebook at a time: [B, K] and not [B, H, K]
        distances = torch.cdist(points[:, h], keys[h], compute_mode="donot_use_mm_for_euclid_dist")  # [B, K]
        found.append(distances.argmin(1, keepdim=True) if top_k == 1 else torch.argsort(distances, dim=1, stable=True)[:, :top_k])
    return torch.stack(found, 1)


def place_keys(points: Tensor, head: DKVBHead, generator: torch.Generator) -> Tensor:
    """[H, K, d] keys for `points` [n, H, d]: rows drawn at random, then moved towards the mean of what they are nearest to.

    With fewer rows than keys they are drawn with repetition, plus noise.
    """
    count = head.keys.shape[1]
    if len(points) < count:
        logger.warning("The dkvb head has %d keys and %d images to place them by: keys are drawn with repetition.", count, len(points))
    drawn = [_draw(points[:, h], count, generator) for h in range(points.shape[1])]
    average = KeyAverage(torch.stack(drawn), head.ema_decay)
    for _ in range(head.init_epochs):
        for rows in torch.randperm(len(points), generator=generator).split(BATCH):
            average.update(points[rows])
            average.revive(points[rows], generator)
    dead = float((average.counts < REVIVED_BELOW).double().mean())
    if dead > 0.5:
        logger.warning("%.0f %% of the dkvb head's keys are near no image: give it fewer `keys`.", 100 * dead)
    return average.keys


def _draw(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(points) >= count:
        return points[torch.randperm(len(points), generator=generator)[:count]].clone()
    rows = points[torch.randint(len(points), (count,), generator=generator)]
    return rows + 0.01 * points.std() * torch.randn(rows.shape, generator=generator, dtype=rows.dtype)


class KeyAverage:
    """Keys as moving averages of the samples that are nearest to them.

    Args:
        keys: [H, K, d] where they begin, each with a count of 1.
        decay: of counts and sums, per batch.
    """

    def __init__(self, keys: Tensor, decay: float) -> None:
        self.sums, self.counts, self.decay = keys.clone(), keys.new_ones(keys.shape[:2]), decay

    @property
    def keys(self) -> Tensor:  # [H, K, d]
        return self.sums / self.counts[..., None]

    def update(self, points: Tensor) -> None:
        """With one batch of points [B, H, d]."""
        chosen = nearest_keys(points, self.keys, 1)[..., 0].T  # [H, B]
        counts = torch.zeros_like(self.counts).scatter_add_(1, chosen, points.new_ones(chosen.shape))
        sums = torch.zeros_like(self.sums).scatter_add_(1, chosen[..., None].expand(-1, -1, points.shape[2]), points.transpose(0, 1))
        self.counts = self.decay * self.counts + (1 - self.decay) * counts
        self.sums = self.decay * self.sums + (1 - self.decay) * sums

    def revive(self, points: Tensor, generator: torch.Generator) -> None:
        """Keys without samples begin anew at points of the batch."""
        dead = (self.counts < REVIVED_BELOW).nonzero()  # [m, 2]
        rows = torch.randint(len(points), (len(dead),), generator=generator)
        self.sums[dead[:, 0], dead[:, 1]] = points[rows, dead[:, 0]]
        self.counts[dead[:, 0], dead[:, 1]] = 1.0
