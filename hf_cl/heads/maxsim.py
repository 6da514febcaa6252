"""Late interaction: a class is some vectors, an image its patch tokens, and every vector looks for its best place.

Shapes: B batch, H W = N places of a map, D token width, d width of the comparison, C classes seen so far, Q vectors of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part, Session, Trainer
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number
from hf_cl.heads.rows import append_rows
from hf_cl.heads.token_projection import ProjectionKind, TokenProjection

AT_ONCE = 1 << 16
"""Similarities of one image that are held at a time; classes are taken in pieces beyond."""
TAU = 0.05
"""Of the smooth maximum."""
ROUNDS = 10
"""Of k-means."""
EPS = 1e-12


class MaxSimHead(Head, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """`scale / Q * sum over the class's vectors of the best cosine with any projected patch token`: local evidence counts, wherever it is.

    The score of ColBERT (Khattab, Zaharia, SIGIR 2020) between a class and an image, with the projections of Clavié et al., arXiv
    2510.12327; classes as the queries of images are a use of ours. With random vectors the best token is nearly always background and
    nothing is learned, so a session's new classes begin at what sets their own images apart: the mean projected token less that of all the
    session's classes, and k-means centres of the tokens that lie nearest to it. A session with one class compares it with session 0, which
    therefore has two or more.

    Args:
        in_features: D.
        num_classes: C, classes to begin with.
        vectors_per_class: Q.
        out_dim: d; below about 32, tokens of noise come near any class by chance.
        projection, upscale, residual: as in `TokenProjection`.
        source: where the vectors of a class come from: "learned"; or "text", what a text tower says of the class name in each of the
            templates, which makes Q and d, and which stays. The projection then begins as the base's own, where the base is the CLIP of
            the texts. (Tokens of one text would be the late interaction of ColBERT, but a CLIP is trained on the last of them alone.)
        text_model, template: of the texts, as under `language_targets`.
        text_width, num_targets: d and Q of texts; the run writes them down.
        init: "class_mean", or "random", which documents the failure.
        logit_scale: where the learned scale begins.
        grid: the map is averaged to grid x grid places first; None: every patch.
        aggregate: "max", or "lse", a smooth maximum whose gradient reaches every token.
        device, dtype: of the parameters.

    Raises ValueError for settings out of range.
    """

    reads = "tokens"
    weight: Tensor
    """[C, Q, d] vectors of the classes: a parameter, or texts, which do not train."""
    session_0_mean: Tensor
    """[D] mean token of session 0, which the mean of a session with one class is compared with."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        vectors_per_class: int = 4,
        out_dim: int = 128,
        projection: ProjectionKind = "ffn",
        upscale: int = 2,
        residual: bool = True,
        source: Literal["learned", "text"] = "learned",
        text_model: str | None = None,
        template: str | list[str] | None = None,
        text_width: int | None = None,
        num_targets: int = 1,
        init: Literal["class_mean", "random"] = "class_mean",
        logit_scale: float = 10.0,
        grid: int | None = None,
        aggregate: Literal["max", "lse"] = "max",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = "MaxSimHead"
        for setting, value, high in (("vectors_per_class", vectors_per_class, 1024), ("out_dim", out_dim, 2**16), ("upscale", upscale, 64)):
            check_count(name, setting, value, 1, high)
        if grid is not None:
            check_count(name, "grid", grid, 1, 1024)
        check_number(name, "logit_scale", logit_scale, 1e-6, 1e6, "a positive number")
        check_bool(name, residual=residual)
        for setting, word, words in (
            ("projection", projection, ("linear", "ffn", "glu")),
            ("source", source, ("learned", "text")),
            ("init", init, ("class_mean", "random")),
            ("aggregate", aggregate, ("max", "lse")),
        ):
            if word not in words:
                raise ValueError(f"{name}: {setting} must be one of {', '.join(words)}, got {word!r}.")
        self.speaks = source == "text"
        if self.speaks:
            check_count(name, "text_width", text_width, 1, 2**16)
            out_dim, vectors_per_class = int(text_width or 0), num_targets
        self.in_features, self.num_classes, self.out_dim, self.grid = in_features, 0, out_dim, grid
        self.vectors, self.init, self.aggregate = vectors_per_class, init, aggregate
        self.projection = TokenProjection(in_features, out_dim, projection, upscale=upscale, residual=residual, device=device, dtype=dtype)
        self.scale = nn.Parameter(torch.full((), float(logit_scale), device=device, dtype=dtype))
        factory: Any = {"device": self.scale.device, "dtype": self.scale.dtype}  # peft puts parameters alone on the meta device
        none = torch.empty(0, vectors_per_class, out_dim, **factory)  # [C, Q, d]
        if self.speaks:
            self.register_buffer("weight", none)
        else:
            self.weight = nn.Parameter(none)
        self.register_buffer("session_0_mean", torch.zeros(in_features, **factory))
        self._add(num_classes)

    def grow(self, class_names: Sequence[str]) -> None:
        self._add(len(class_names))

    def _add(self, count: int) -> None:
        shape = (count, self.vectors, self.out_dim)
        if isinstance(self.weight, nn.Parameter):
            self.weight = append_rows(self.weight, shape, self.out_dim)
        else:
            self.weight = torch.cat([self.weight, self.weight.new_zeros(shape)])
        self.num_classes += count

    @torch.no_grad()
    def write_texts(self, rows: Tensor, projection: Tensor | None) -> None:
        """Copy in what the names of classes say that have no vectors yet: of all classes [C, Q, d]; before the first of them, too, where
        the projection begins, [d, D], or None. Raises ValueError where they are of another size."""
        if rows.shape != self.weight.shape:
            raise ValueError(f"The texts are {tuple(rows.shape)}, and the head has room for {tuple(self.weight.shape)}.")
        new = ~self.weight.flatten(1).any(1)  # [C]
        base = self.projection.base
        if new.all() and base is not None and projection is not None and projection.shape == base.weight.shape:
            base.weight.copy_(projection)
        self.weight[new] = rows.to(self.weight)[new]

    def project(self, tokens: Tensor) -> Tensor:
        """[B, H, W, D] -> [B, N, d] at length 1, in float32 at least."""
        projected = self.projection(tokens.flatten(1, 2))
        return F.normalize(projected.to(torch.promote_types(projected.dtype, torch.float32)), dim=-1, eps=EPS)

    def forward(self, features: Tensor) -> Tensor:  # [B, H, W, D] -> [B, C]
        """Logits. Raises ValueError for fewer places than vectors of a class."""
        if features.dim() != 4 or features.shape[1] * features.shape[2] < self.vectors:
            raise ValueError(
                f"A maxsim head with {self.vectors} vectors per class reads maps of as many tokens or more, [B, H, W, D]; got "
                f"{list(features.shape)}."
            )
        tokens = self.project(features)
        with torch.autocast(tokens.device.type, enabled=False):
            vectors = F.normalize(self.weight.to(tokens.dtype), dim=-1, eps=EPS)
            return self.scale * late_interaction(tokens, vectors, smooth=self.aggregate == "lse") / self.vectors

    def embed(self, features: Tensor) -> Tensor:  # [B, H, W, D] -> [B, D]
        """The mean token."""
        return features.mean((1, 2))

    @torch.no_grad()
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """Place the vectors of new classes. Raises ValueError for a new class without an image, and for one alone in session 0."""
        if self.speaks or self.init == "random" or not session.new_class_names:
            return
        if session.id == 0 and len(session.class_names) == 1:
            raise ValueError(
                "The vectors of a maxsim head begin at what sets a session's classes apart, and session 0 has one alone: give it two "
                "classes, or vectors that are texts (source: text)."
            )
        data = trainer.features_of(session.train)
        if session.id == 0:
            self.session_0_mean.copy_(data.features.mean((0, 1, 2)))
        new = range(session.first_new_class, len(session.class_names))
        maps = [data.features[data.labels == label] for label in new]  # [n, H, W, D] each
        if empty := [session.class_names[label] for label, rows in zip(new, maps, strict=True) if not len(rows)]:
            raise ValueError(f"Session {session.id} has no image of {', '.join(empty)}, at which a maxsim head could begin.")
        means = torch.stack([self._projected(rows).mean(0) for rows in maps])  # [n, d]
        common = means.mean(0) if len(new) > 1 else self.projection(self.session_0_mean)  # [d]
        for label, rows, mean in zip(new, maps, means - common, strict=True):
            generator = trainer.generator_for("maxsim vectors", session.id, label)
            self.weight[label] = class_vectors(self._projected(rows) - common, mean, self.vectors, generator)
        as_on_rank_0([self.weight.data])

    def _projected(self, rows: Tensor) -> Tensor:
        """[n, H, W, D] -> [n N, d], of any length."""
        return torch.cat([self.projection(part.flatten(0, 2)) for part in rows.split(256)])

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, vectors={self.vectors}, grid={self.grid}"


def late_interaction(tokens: Tensor, vectors: Tensor, mask: Tensor | None = None, *, smooth: bool = False) -> Tensor:
    """[B, C] sums over a class's vectors of the best product with a token; where tokens tie, one of them gets the gradient.

    Args:
        tokens: [B, N, d] at length 1.
        vectors: [C, Q, d] at length 1.
        mask: [B, N] False for tokens that do not count.
        smooth: a smooth maximum instead, `tau log sum exp(x / tau)`.

    Raises ValueError where no token of an image counts.
    """
    if mask is not None and not bool(mask.any(1).all()):
        raise ValueError("late_interaction: of some image no token counts.")
    at_once = max(1, AT_ONCE // (tokens.shape[1] * vectors.shape[1]))
    parts = [_best(tokens, some, mask, smooth) for some in vectors.split(at_once)] if len(vectors) else []
    return torch.cat(parts, 1) if parts else tokens.new_zeros(len(tokens), 0)


def _best(tokens: Tensor, vectors: Tensor, mask: Tensor | None, smooth: bool) -> Tensor:
    products = tokens @ vectors.flatten(0, 1).T  # [B, N, C Q]
    if mask is not None:
        products = products.masked_fill(~mask[:, :, None], -torch.inf)
    best = TAU * (products / TAU).logsumexp(1) if smooth else products.max(1).values  # [B, C Q]
    return best.unflatten(1, vectors.shape[:2]).sum(2)


def class_vectors(tokens: Tensor, mean: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, d]: the mean's direction, and k-means centres of the quarter of `tokens` [m, d] that lie nearest to it."""
    directions, first = F.normalize(tokens, dim=-1), F.normalize(mean, dim=0)
    near = directions[(directions @ first).topk(max(len(tokens) // 4, min(count, len(tokens)))).indices]
    centers = near[torch.randperm(len(near), generator=generator)[: count - 1].to(near.device)]  # [k, d]
    for _ in range(ROUNDS if len(centers) else 0):
        own = F.one_hot((near @ centers.T).argmax(1), len(centers)).to(near.dtype)  # [m, k]
        sums = own.T @ near
        centers = torch.where(sums.norm(dim=1, keepdim=True) > EPS, F.normalize(sums, dim=1), centers)
    missing = first.expand(count - 1 - len(centers), -1)  # fewer tokens than vectors
    return torch.cat([first[None], centers, missing])
