"""The key loss of MVP: keys near the queries of their images, and away from one another.

Shapes: b images of this process, B of all, k entries of an image, n = B k choices, M entries of the pool.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters import PromptPoolModel
from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.global_batch import as_own_share, gather_batch

Contrast = Literal["official", "per_image", "per_image_no_self"]


class ContrastiveKeys(LossTerm):
    """`-log( neg / (pos + neg) )`: pos of distances d to the chosen keys, neg of distances K between keys, both over an entry's mass m.

    Moon et al., ICCV 2023 (MVP); m is one more than how often an entry was chosen before this step. The published code divides an array per
    image by a column of masses, so that the masses of other images mix in: pos = mean over pairs (a, b) of exp(d_b / m_a), and so for neg;
    that is "official". "per_image" takes each image's own mass, "per_image_no_self" leaves the distance of a key to itself out of neg.
    The mean is over the images of all processes; over micro-batches it is of each.

    Args:
        weight: of the term.
        contrast: "official", "per_image" or "per_image_no_self".

    Raises ValueError for another word, and at the beginning of a session whose adapter is no PROMPT_POOL of the producer mvp.
    """

    name = "contrastive_keys"
    needs = frozenset({"key_similarity", "chosen", "index"})

    def __init__(self, weight: float = 1.0, contrast: Contrast = "official") -> None:
        if contrast not in ("official", "per_image", "per_image_no_self"):
            raise ValueError(f"ContrastiveKeys: contrast is official, per_image or per_image_no_self, got {contrast!r}.")
        self.weight = weight
        self.contrast: Contrast = contrast
        self._tuner: PromptPoolModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, PromptPoolModel):
            raise ValueError(f"ContrastiveKeys needs a PROMPT_POOL adapter of the producer mvp; this run has a {type(tuner).__name__}.")
        self._tuner = tuner
        self._tuner.chooser()

    def __call__(self, ctx: Context) -> Tensor:
        if self._tuner is None:
            raise RuntimeError("ContrastiveKeys: no session has begun; the term learns the adapter in begin_session.")
        layer, name = self._tuner.chooser(), self._tuner.active_adapters[0]
        chosen = ctx.extras["chosen"][:, 0]  # [b, k]
        distance = 1 - ctx.extras["key_similarity"][:, 0].gather(1, chosen)  # [b, k]
        keys = F.normalize(layer.pool(name)["k"], dim=-1)
        between = (1 - keys @ keys.T)[chosen]  # [b, k, M]
        batch = gather_batch(ctx.batch["index"], chosen, distance, between)
        chosen, distance, between = batch.tensors
        mass = (layer.count(name) + 1).to(distance)[chosen]  # [B, k]
        shares = batch.valid.to(distance)[:, None].expand_as(distance).flatten()  # [n]
        loss = key_contrast(distance.flatten(), between.flatten(0, 1), chosen.flatten(), mass.flatten(), shares, self.contrast)
        return as_own_share(loss, len(ctx.labels), batch.valid)


def key_contrast(distance: Tensor, between: Tensor, chosen: Tensor, mass: Tensor, shares: Tensor, contrast: Contrast) -> Tensor:
    """The loss of n choices.

    Args:
        distance: [n] of the query to the chosen key.
        between: [n, M] of the chosen key to all keys.
        chosen: [n]
        mass: [n] of the chosen entry.
        shares: [n] 0 for a choice that does not count.
        contrast: see `ContrastiveKeys`.
    """
    shares = shares / shares.sum()
    if contrast == "official":
        pairs = shares[:, None] * shares  # [n, n]
        pos = (pairs * (distance / mass[:, None]).exp()).sum()
        neg = (shares[:, None, None] * shares[:, None] * (between / mass[:, None, None]).exp()).mean(-1).sum()
    else:
        pos = (shares * (distance / mass).exp()).sum()
        others = (between / mass[:, None]).exp()  # [n, M]
        if contrast == "per_image_no_self":
            others = others.scatter(1, chosen[:, None], 0.0)
        entries = others.shape[1] - (contrast == "per_image_no_self")
        neg = (shares * others.sum(1)).sum() / entries
    return -torch.log(neg / (pos + neg) + 1e-6)
