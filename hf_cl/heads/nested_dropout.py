"""Features in the order of their use: a head around another one.

Shapes: B batch, C classes seen so far, D feature width, K dimensions of a truncated head.
"""

from __future__ import annotations

import logging
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Head, Part, Session, Trainer
from hf_cl.heads.cosine import CosineHead
from hf_cl.heads.fetril import FeTrILHead
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count
from hf_cl.heads.gaussian import GaussianHead
from hf_cl.heads.kept_dimensions import (
    Distribution,
    check_positive,
    curves,
    keep_sizes,
    most_accurate,
    say_what_never_trains,
    smallest_good_loss,
)
from hf_cl.heads.kernel_ridge import KernelRidgeHead
from hf_cl.heads.linear import LinearHead
from hf_cl.heads.prototype import PrototypeHead
from hf_cl.heads.ridge import RidgeHead
from hf_cl.hints import build

logger = logging.getLogger(__name__)

INNER: dict[str, Callable[..., LinearHead | CosineHead]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "prototype": PrototypeHead,
    "gaussian": GaussianHead,
    "ridge": RidgeHead,
    "kernel_ridge": KernelRidgeHead,
    "fetril": FeTrILHead,
}
"""Types of the inner head: those that train linear or cosine rows, whatever they are fitted to afterwards."""
CUT = ("linear", "cosine", "prototype")
"""Those that hold nothing but rows of the features."""
Select = Literal["train_loss", "validation", "all"]


class NestedDropoutHead(Head, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """In training only the first k dimensions reach the inner head, with k drawn anew for every step; small k are drawn often.

    So dimensions come in the order of their use (Rippel, Gelbart, Adams, "Learning Ordered Representations with Nested Dropout", ICML
    2014; against noisy labels: Chen et al., "Boosting Co-teaching with Compression Regularization for Label Noise", CVPR workshops 2021,
    and "Compressing Features for Learning with Noisy Labels", arXiv 2206.13140). At the end of session 0 the head says how many it needs,
    and reads no more from then on; `hf-cl export --form truncated` cuts the rest off. Nothing is rescaled, unlike in dropout.

    The dimensions are those of a trained map of the features, D x D and the identity to begin with: on a backbone that stands still they
    could not be ordered otherwise. It trains in session 0 and rests afterwards, so that what is known of old classes goes on meaning the
    same. Departures from the official code: k is counted from 1, drawn from the run's generator, and chosen on training images or images
    held out, never on test images; co-teaching, which trains two models at once, is not here.

    Args:
        in_features: D.
        num_classes: C, rows to begin with.
        head: spec of the inner head, of a type in `INNER`: trained or fitted.
        distribution, sigma, q: of k: "gaussian" p(k) ~ exp(-(k / sigma)^2), sigma None is D / 8; "geometric" p(k) ~ (1 - q)^(k - 1);
            "uniform".
        projection: the trained map; without it the dimensions are the features'.
        select: how many are kept after session 0: the fewest whose cross-entropy on its training images is within one percent of the best
            ("train_loss"), the most accurate on images held out, where a dimension more has to be worth 1e-5 ("validation"), "all", or a
            number.
        kept: K of a head that was truncated; `export` writes it.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these, and an inner head that it cannot order.
    """

    projection: nn.Parameter | None
    """[K, D] the map."""
    size: Tensor
    """How many dimensions are kept since session 0; D before."""
    drawn: Tensor
    """How many are kept in the present training step."""
    resting: Tensor
    """[K, D] where the map stands from session 1 on."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        head: dict[str, Any],
        distribution: Distribution = "gaussian",
        sigma: float | None = None,
        q: float = 0.1,
        projection: bool = True,
        select: Select | int = "train_loss",
        kept: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_bool(name, projection=projection)
        check_positive(name, "q", q, 1.0)
        sigma = in_features / 8 if sigma is None else sigma
        check_positive(name, "sigma", sigma)
        if distribution not in ("gaussian", "geometric", "uniform"):
            raise ValueError(f"{name}: distribution is gaussian, geometric or uniform, got {distribution!r}.")
        for setting, value in (("select", select), ("kept", kept)):
            if isinstance(value, int):
                check_count(name, setting, value, 1, in_features)
        self.in_features, self.num_classes, self.select = in_features, num_classes, select
        self.width = in_features if kept is None else kept
        given = {"in_features": self.width, "num_classes": num_classes, "device": device, "dtype": dtype}
        self.inner = build("inner head", INNER, head, given=given)
        self._holds_rows_alone = head["type"] in CUT
        self.chances: list[float] = keep_sizes(distribution, self.width, sigma, q).tolist()
        self._up_to = list(accumulate(self.chances))
        rows = next(self.inner.parameters())
        map_ = torch.eye(self.width, in_features, device=rows.device, dtype=rows.dtype) if projection else None
        self.register_parameter("projection", None if map_ is None else nn.Parameter(map_))  # [K, D]
        self.register_buffer("size", torch.full((), self.width, device=rows.device))
        self.register_buffer("drawn", torch.full((), self.width), persistent=False)  # no file holds it, so never on the meta device
        resting = torch.zeros(0) if map_ is None else torch.zeros(map_.shape, dtype=map_.dtype)
        self.register_buffer("resting", resting, persistent=False)

    # As the inner head
    @property
    def fits(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.fits

    @property
    def statistics(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.statistics

    @property
    def new_classes_only(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.new_classes_only

    @property
    def own_temperature(self) -> float | None:
        return self.inner.own_temperature

    @property
    def moves_with_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.moves_with_statistics

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.inner.probabilities(logits)

    def grow(self, class_names: Sequence[str]) -> None:
        self.inner.grow(class_names)
        self.num_classes += len(class_names)

    # The features that it reads
    def ordered(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, K] all dimensions in their order."""
        return features[..., : self.width] if self.projection is None else F.linear(features, self.projection)

    def embed(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, K] those that were chosen, and 0 for the others; in train mode too, since statistics are of these."""
        return torch.where(self._below(self.size), self.ordered(features), 0.0)

    def _below(self, size: Tensor) -> Tensor:
        """[K] bool"""
        return torch.arange(self.width, device=self.size.device) < size

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        kept = self._below(self.drawn if self.training else self.size)
        rows = torch.where(kept, self.ordered(features), 0.0)  # [B, K]
        by_rows = self.training or self._holds_rows_alone
        if by_rows and isinstance(
            self.inner, CosineHead
        ):  # class vectors have their length in the dimensions that are kept, as when they are cut
            return self.inner.compare(rows, torch.where(kept, self.inner.class_vectors(), 0.0))
        return self.inner(rows)

    def as_linear(self) -> nn.Linear | None:
        linear = self.inner.as_linear()
        if linear is None:
            return None
        weight = torch.where(torch.arange(self.width, device=linear.weight.device) < self.size, linear.weight, 0.0)  # [C, K]
        made = nn.Linear(self.in_features, self.num_classes, bias=linear.bias is not None, device="meta", dtype=weight.dtype)
        made = made.to_empty(device=weight.device)
        with torch.no_grad():
            whole = F.pad(weight, (0, self.in_features - self.width)) if self.projection is None else weight @ self.projection
            made.weight.copy_(whole)  # [C, D]
            if linear.bias is not None:
                made.bias.copy_(linear.bias)
        return made

    # Hooks
    def _inner_part(self) -> Part:
        return self.inner if isinstance(self.inner, Part) else _NOTHING

    @torch.no_grad()
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """From session 1 on the map rests. Raises ValueError where images that were held out are to choose, and none were."""
        if session.id == 0:
            say_what_never_trains(torch.tensor(self.chances))
            if self.select == "validation" and trainer.validation_of(session) is None:
                raise ValueError("select: validation lets images choose that were held out; say --validation_fraction 0.1, or train_loss.")
        elif self.projection is not None:
            self.resting.copy_(self.projection)
        self._inner_part().begin_session(trainer, session)

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """Draw k for the first step."""
        self._draw(trainer)
        self._inner_part().begin_epoch(trainer, epoch)

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        """Draw k for the next step, the same one for all of its passes; put the map back where it rests."""
        if trainer.session.id > 0 and self.projection is not None:
            self.projection.copy_(self.resting)
        self._draw(trainer)
        self._inner_part().after_step(trainer)

    def _draw(self, trainer: Trainer) -> None:
        count = 1 + bisect(self._up_to, float(torch.rand((), generator=trainer.generator, dtype=torch.float64)))
        self.drawn.copy_(self.size.clamp(max=count))

    @torch.no_grad()
    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """At the end of session 0: how many dimensions are kept from now on."""
        if session.id == 0:
            self.size.fill_(self._chosen(trainer, session))
            as_on_rank_0([self.size])
            logger.info("Nested dropout: %d of %d dimensions are kept.", int(self.size), self.width)
        self._inner_part().before_statistics(trainer, session)

    def _chosen(self, trainer: Trainer, session: Session) -> int:
        if self.select == "all" or isinstance(self.select, int):
            return self.width if self.select == "all" else min(self.select, self.width)
        images = trainer.validation_of(session) if self.select == "validation" else session.train
        assert images is not None  # begin_session has seen to it
        data = trainer.features_of(images)
        entropy, accuracy = curves(self.inner, self.ordered(data.features), data.labels)
        return most_accurate(accuracy) if self.select == "validation" else smallest_good_loss(entropy)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._inner_part().end_session(trainer, session)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, num_classes={self.num_classes}, width={self.width}"


def truncated(head: NestedDropoutHead, spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The spec and the tensors of a head that holds no more than the K dimensions which this one keeps, with the same logits.

    Raises ValueError where something of the inner head is not made of rows of the features.
    """
    size = int(head.size)
    inner = {name.removeprefix("inner."): tensor for name, tensor in head.state_dict().items() if name.startswith("inner.")}
    if spec["head"]["type"] not in CUT:
        raise ValueError(
            f"A {spec['head']['type']} head inside is more than rows of the features, and cannot be cut. Inner heads of type "
            f"{', '.join(CUT)} can; every one exports whole, as onnx, and as merged where it is a linear layer."
        )
    cut = {f"inner.{name}": tensor[:, :size] if tensor.ndim == 2 else tensor for name, tensor in inner.items()}
    cut["size"] = torch.full_like(head.size, size)
    if head.projection is not None:
        cut["projection"] = head.projection.detach()[:size]
    return {**spec, "kept": size}, {name: tensor.detach().clone().contiguous() for name, tensor in cut.items()}


_NOTHING = Part()
