"""Two complementary maskings of a feature vector embed alike, and unlike those of other images.

Shapes: B batch, D feature width, d width of the projection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.global_batch import as_own_share, gather_batch
from hf_cl.losses.image_draws import image_words

WIDTH = 128
"""Of the projection."""


def information(features: Tensor) -> Tensor:
    """[n, D] -> [D, D] float64: what one feature tells of another, -0.5 log(1 - rho^2), exact for Gaussians; -1 on the diagonal.

    A feature that never changes tells nothing: -1 in its row and column.
    """
    centred = features.double() - features.double().mean(0)
    lengths = centred.square().sum(0).sqrt()
    moves = lengths > 0
    unit = centred / torch.where(moves, lengths, 1.0)
    rho = (unit.T @ unit).clamp(-1 + 1e-15, 1 - 1e-15)
    found = -0.5 * torch.log1p(-rho.square())
    found = torch.where(moves[:, None] & moves, found, -1.0)
    return found.fill_diagonal_(-1.0)


def correlated_masks(told: Tensor) -> Tensor:
    """[D, D] information -> [D, D] bool: row s has the D / 2 features that are most informative about s, s among them; ties to lower."""
    width = len(told)
    own = told.clone().fill_diagonal_(math.inf)
    order = own.sort(dim=1, descending=True, stable=True).indices[:, : width // 2]
    return torch.zeros(width, width, dtype=torch.bool, device=told.device).scatter_(1, order, True)


def masked_contrast(first: Tensor, second: Tensor, temperature: float, ignored: Tensor | None = None) -> Tensor:
    """[B, d] embeddings of the two maskings, of any length -> the mean cross-entropy of finding one's own other half among all.

    One direction, as published. `ignored` [B, B] bool are pairs that are no negatives.
    """
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature  # [B, B]
    if ignored is not None:
        similarity = similarity.masked_fill(ignored, torch.finfo(similarity.dtype).min)
    return F.cross_entropy(similarity, torch.arange(len(first), device=first.device), reduction="mean")


class MaskedViewContrast(LossTerm, nn.Module):  # pyright: ignore[reportIncompatibleMethodOverride]  # a loss's state is its own
    """A contrast of two complementary maskings of each image's features, for sessions in which some classes have a handful of images.

    Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021 (arXiv 2007.12865), with features of an image in
    the place of an item's. The adapter learns that every half of what it says of an image tells which image it is. No second forward of
    the backbone; the projector, `Linear(D, D) GELU Linear(D, 128)`, belongs to the loss, begins anew in every session, and is thrown away.

    Masks are a function of seed, session, step and sample id, so that a resume, another number of processes and a rule with two passes see
    the same. With several processes the negatives are those of the global batch.

    Args:
        weight: of the term; a number, or a function of the phase's epoch.
        temperature: of the similarities.
        mask: "random": half of the features, drawn for each image; "correlated": a drawn feature and those that say most about it over
            the session's images (measured, it does no better).
        same_class: whether images of one class are negatives ("negative", as published) or left out ("ignore").

    Raises ValueError for a temperature that is not positive and unknown words; in a session for features that are no vectors of at least
    four numbers, and in a phase on features, where there is nothing before the head that could learn.
    """

    name = "masked_views"
    needs = frozenset({"index"})

    def __init__(
        self,
        weight: float | Callable[[int], float] = 0.2,
        temperature: float = 0.1,
        mask: Literal["random", "correlated"] = "random",
        same_class: Literal["negative", "ignore"] = "negative",
    ) -> None:
        nn.Module.__init__(self)
        if not temperature > 0:
            raise ValueError(f"MaskedViewContrast: temperature must be positive, got {temperature}.")
        if mask not in ("random", "correlated") or same_class not in ("negative", "ignore"):
            raise ValueError(f"MaskedViewContrast: mask is random or correlated, same_class negative or ignore; got {mask}, {same_class}.")
        self.weight, self.temperature, self.mask, self.same_class = weight, temperature, mask, same_class
        self.layers = nn.Sequential()
        self._seed = 0
        self._table: Tensor | None = None
        self._accelerator: Any = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """A new projector; under "correlated", what the features of the session's images say of each other."""
        model: Any = trainer.model
        if model.peft_config["default"].has_text_head or trainer.head.reads == "tokens":
            raise ValueError("masked_views hides parts of a feature vector, and this head reads none: take another, such as linear.")
        head: Any = trainer.head
        width: int = head.in_features
        if width < 4:
            raise ValueError(f"masked_views hides half of the features, and there are {width}.")
        self._accelerator, device = trainer.accelerator, trainer.accelerator.device
        self._seed = int(torch.randint(2**62, (), generator=trainer.generator_for(self.name, session.id)))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, WIDTH)).to(device)
        for parameter in self.layers.parameters():
            parameter.register_hook(self._over_processes)
        if self.mask == "correlated":
            self._table = correlated_masks(information(trainer.features_of(session.train).features)).to(device)

    def state_dict(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return {} if self._table is None else {"table": self._table}  # of the features with which the session began

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if state and self._table is not None:
            self._table = state["table"].to(self._table.device)

    def _over_processes(self, gradient: Tensor) -> Tensor:
        """The mean over processes: DDP knows the model alone."""
        return gradient if self._accelerator is None else self._accelerator.reduce(gradient, reduction="mean")

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        if trainer.phase.inputs == "features":
            raise ValueError(f"masked_views teaches what comes before the head, and phase {trainer.phase.name!r} runs on features.")

    def masks(self, index: Tensor, width: int, step: int) -> Tensor:
        """[B, D] bool: what the first view does not see; the second sees nothing else."""
        if self._table is None:
            order = image_words(self._seed, step, index, width).argsort(1)
            return torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : width // 2], True)
        return self._table[image_words(self._seed, step, index, 1)[:, 0].remainder(width)]

    def __call__(self, ctx: Context) -> Tensor:
        features = ctx.features.float()  # [B, D]
        with torch.autocast(features.device.type, enabled=False):
            hidden = self.masks(ctx.batch["index"], features.shape[1], ctx.step)
            first = self.layers(torch.where(hidden, 0.0, features))  # [B, d]
            second = self.layers(torch.where(hidden, features, 0.0))  # [B, d]
            (labels, first, second), valid = gather_batch(ctx.batch["index"], ctx.labels, first, second)
            repeated = ~valid[None, :] & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)
            if self.same_class == "ignore":
                repeated |= (labels[:, None] == labels) & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)
            loss = masked_contrast(first, second, self.temperature, repeated)
        return as_own_share(loss, len(ctx.labels), valid)
