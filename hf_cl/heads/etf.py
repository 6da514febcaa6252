"""A classifier that is fixed before the first class comes: a simplex equiangular tight frame.

Shapes: B batch, C classes seen so far, K classes there is room for, D feature width, E embedding width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part, Session, Trainer
from hf_cl.heads.fitted import as_on_rank_0, check_count, check_number, check_settings, own_rows
from hf_cl.heads.projectors import ProjectorKind, projector_of
from hf_cl.heads.selective_scan import EXTRAS, SelectiveScanProjector

logger = logging.getLogger(__name__)
GRID = 7
EPS = 1e-12
"""Below this length a projected feature is taken for zero."""


class ETFHead(Head, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """`logit_scale * cos(projector(features), frame column)`: every class of the stream has its vector from the start, and none ever moves.

    The K vectors are a simplex equiangular tight frame, unit vectors with pairwise cosine -1 / (K - 1), the geometry that balanced training
    converges to (Papyan et al., PNAS 2020). Only what lies before them learns, by `dot_regression`: old classes keep their rows, and new
    ones have a place that no old one has taken. Yang et al., "Neural Collapse Inspired Feature-Classifier Alignment for Few-Shot Class
    Incremental Learning", ICLR 2023, and the classifier of Mamba-FSCIL (Li et al., arXiv 2407.06136).

    Args:
        in_features: D.
        num_classes: C, classes to begin with.
        num_classes_total: K, all the classes that will ever come; the frame cannot be extended without moving every vector.
        projector: what learns before the frame: "none", "linear", "mlp", or on the map of patch tokens "selective_scan".
        out_dim: E; None: the larger of D and K.
        etf_seed: of the frame's draw.
        assignment: which column a class gets: the next one on "arrival", or by "greedy" the free columns for which the sum of cosines
            with the projected means of a session's new classes is largest.
        grid: the map of a selective scan is averaged to grid x grid places first.
        scan: further settings of `SelectiveScanProjector`.
        logit_scale: of the cosines, for probabilities; it changes no prediction.
        device, dtype: of the projector; the frame stays float32.

    Raises ValueError for K below 2 or above E, more classes than K, and settings of another kind.
    """

    frame: Tensor
    """[E, K] float32; its columns have length 1."""
    columns: Tensor
    """[C] int64: the column of each class; none is given twice."""
    zeros: Tensor
    """Projected features of length zero that training has met in the session."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        num_classes_total: int,
        projector: ProjectorKind | Literal["selective_scan"] = "mlp",
        out_dim: int | None = None,
        etf_seed: int = 0,
        assignment: Literal["arrival", "greedy"] = "arrival",
        grid: int | None = None,
        scan: dict[str, Any] | None = None,
        logit_scale: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = "ETFHead"
        check_count(name, "num_classes_total", num_classes_total, 2, 2**16)
        check_number(name, "logit_scale", logit_scale, 1e-6, 1e6, "a positive number")
        if assignment not in ("arrival", "greedy"):
            raise ValueError(f"{name}: assignment must be arrival or greedy, got {assignment!r}.")
        width = out_dim or (in_features if projector == "none" else max(in_features, num_classes_total))
        if num_classes_total > width:
            raise ValueError(
                f"{name}: a frame of num_classes_total {num_classes_total} vectors needs an embedding of at least that width, and this one "
                f"is {width} wide; raise out_dim (with a projector)."
            )
        self.in_features, self.num_classes, self.most_classes = in_features, 0, num_classes_total
        self.assignment, self.logit_scale = assignment, float(logit_scale)
        factory: Any = {"device": device, "dtype": dtype}
        if projector == "selective_scan":
            self.reads, self.extras, self.grid = "tokens", EXTRAS, GRID if grid is None else grid
            check_count(name, "grid", self.grid, 1, 1024)
            check_settings(f"{name}: scan", SelectiveScanProjector, scan or {})
            self.projector: nn.Module = SelectiveScanProjector(in_features, width, self.grid, **(scan or {}), **factory)
        elif grid is not None or scan:
            raise ValueError(f"{name}: grid and scan are settings of projector: selective_scan; leave them out.")
        else:
            self.projector = projector_of(projector, in_features, width, **factory)
        place = torch.device(device or "cpu")  # not the parameters': peft puts those alone on the meta device
        self.register_buffer("frame", simplex_frame(width, num_classes_total, etf_seed).to(place))
        self.register_buffer("columns", torch.empty(0, dtype=torch.int64, device="cpu").to(place))
        self.register_buffer("zeros", torch.zeros((), dtype=torch.int64, device="cpu").to(place), persistent=False)
        self._add(num_classes)

    @classmethod
    def reads_tokens(cls, settings: Mapping[str, Any]) -> bool:
        return settings.get("projector") == "selective_scan"

    def take_extras(self) -> dict[str, Tensor]:
        return self.projector.take_facts() if isinstance(self.projector, SelectiveScanProjector) else {}

    def grow(self, class_names: Sequence[str]) -> None:
        """Give each class the first free column, and nothing else. Raises ValueError for more classes than the frame has vectors."""
        self._add(len(class_names))

    def _add(self, count: int) -> None:
        assert self.most_classes is not None
        if self.num_classes + count > self.most_classes:
            raise ValueError(
                f"The frame of this etf head has {self.most_classes} vectors, for the classes of all sessions, and there would be "
                f"{self.num_classes + count} classes; give the head num_classes_total for all of them from the start."
            )
        if count:
            self.columns = torch.cat([self.columns, self.free_columns()[:count].to(self.columns)])  # [C]
        self.num_classes += count

    def free_columns(self, first: int | None = None) -> Tensor:
        """On the CPU, ascending: those that no class has; with `first`, none of the classes before it."""
        assert self.most_classes is not None
        free = torch.ones(self.most_classes, dtype=torch.bool, device="cpu")
        if not self.columns.is_meta:
            free[self.columns[:first].cpu()] = False
        return free.nonzero()[:, 0]

    def project(self, features: Tensor) -> Tensor:  # [B, D] -> [B, E]
        """What the frame is compared with, at any length."""
        return self.projector(features)

    def embed(self, features: Tensor) -> Tensor:  # [B, D] -> [B, E]
        """The projected features at length 1, in float32 at least; zero where they are zero."""
        projected = self.project(features)
        projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
        if self.training:
            self.zeros += (projected.detach().norm(dim=-1) < EPS).sum()
        return F.normalize(projected, dim=-1, eps=EPS)

    def scores(self, embedding: Tensor) -> Tensor:  # [B, E] -> [B, C]
        """Cosines of embeddings at length 1 with the vectors of the classes so far: all K are computed, so that growth moves no bit."""
        with torch.autocast(embedding.device.type, enabled=False):
            return (embedding @ self.frame.to(embedding.dtype))[:, self.columns]

    def targets(self, labels: Tensor) -> Tensor:  # [B] -> [B, E]
        """The vectors of these classes."""
        return self.frame[:, self.columns[labels]].T

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        return self.logit_scale * self.scores(self.embed(features))

    def logits_and_embedding(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.embed(features)
        return self.logit_scale * self.scores(embedding), embedding

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """With "greedy", give the session's new classes the free columns that lie nearest to their means."""
        self.zeros.zero_()
        if isinstance(self.projector, SelectiveScanProjector):
            self.projector.adapts = session.id > 0  # until then the second branch is silent, and need not run
        if self.assignment == "greedy" and session.new_class_names:
            embedded, labels, _ = own_rows(trainer, session)
            means = torch.stack([embedded[labels == label].mean(0) for label in session.own])  # [n, E]
            first = session.first_new_class
            self.columns[first:] = self._nearest_columns(F.normalize(means, dim=-1), first)
            as_on_rank_0([self.columns])

    def _nearest_columns(self, means: Tensor, first: int) -> Tensor:
        """[n] columns for the classes from `first` on, whose means are [n, E] float64, on the CPU."""
        free = self.free_columns(first)
        cosines = means @ self.frame.cpu().double()[:, free]  # [n, free]
        chosen = linear_sum_assignment(-cosines.numpy())[1]  # [n] by row
        return free[torch.from_numpy(chosen)].to(self.columns.device)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Say whether training met features without a direction."""
        if zeros := int(self.zeros):
            logger.warning("%d times in session %d an image's projected features were zero: they have no direction.", zeros, session.id)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes} of {self.most_classes}, assignment={self.assignment}"


def simplex_frame(width: int, count: int, seed: int) -> Tensor:
    """[width, count] float32: a simplex equiangular tight frame, from a draw of uniform numbers in float64."""
    uniform = torch.rand(width, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, device="cpu")
    return frame_of(uniform).float().contiguous()  # LAPACK's is by columns, and a loaded one by rows: products would round otherwise


def frame_of(uniform: Tensor) -> Tensor:
    """[E, K] -> [E, K]: `sqrt(K / (K - 1)) U (I - 1 1^T / K)` with U the orthonormal basis of the draw's columns."""
    count = uniform.shape[1]
    basis = torch.linalg.qr(uniform)[0]  # [E, K]
    return (count / (count - 1)) ** 0.5 * (basis - basis.mean(1, keepdim=True))
