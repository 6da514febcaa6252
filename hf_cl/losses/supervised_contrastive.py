"""The supervised contrastive loss between views of an image: two of the model, or the model's and other models'.

Shapes: B batch, E embedding width, V views, N = V * B anchors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm
from hf_cl.losses.global_batch import as_own_share, gather_batch
from hf_cl.losses.projector import Projector


def supervised_contrastive(views: Sequence[Tensor], labels: Tensor, *, temperature: float = 0.07, valid: Tensor | None = None) -> Tensor:
    """Pull embeddings of one class together and push those of different classes apart.

    `L = mean_i -1/max(|P(i)|, 1) sum_{j in P(i)} (s_ij - log sum_{m != i} exp s_im)` over all N anchors, with `s_ij = cos(a_i, a_j) / t`
    and P(i) the other anchors of the same class: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2. An anchor without
    a positive contributes 0 and counts in the mean, so a batch without any positive pair has the loss 0. In float32 under autocast too.

    Args:
        views: [B, E] each, of any length: embeddings are normalised here.
        labels: [B].
        temperature: t.
        valid: [B] which samples take part; all by default.

    Returns a scalar.
    """
    dtype = torch.promote_types(views[0].dtype, torch.float32)
    with torch.autocast(labels.device.type, enabled=False):
        anchors = F.normalize(torch.cat([view.to(dtype) for view in views]), dim=-1)  # [N, E]
        similarity = anchors @ anchors.T / temperature  # [N, N]
    labels = labels.repeat(len(views))  # [N]
    counted = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid.repeat(len(views))  # [N]
    others = counted & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)  # [N, N]
    # finite, so that an anchor without others has a finite gradient
    normaliser = similarity.masked_fill(~others, torch.finfo(dtype).min).logsumexp(1, keepdim=True)  # [N, 1]
    positives = (labels[:, None] == labels) & others  # [N, N]
    per_anchor = torch.where(positives, similarity - normaliser, 0).sum(1) / positives.sum(1).clamp(min=1)  # [N]
    return -(per_anchor * counted).sum() / counted.sum()


class SupervisedContrastive(LossTerm):
    """Supervised contrast of the model's views of the images, or of its first view with the last view under other roles.

    Without roles it is that of Khosla et al. on two augmented views, both with gradient. With roles it is CoACT's (Roy et al., TMLR 2025,
    arXiv 2405.16625), whose asynchronous contrast of session 0 has the role `teacher`; embeddings under a role get no gradient. With
    several processes it is the loss of the whole global batch; with several micro-batches the contrast stays inside each of them.

    Args:
        roles: each gives one more view, `ctx.frozen(role, view=-1).embedding`; (): the contrast of the model's own two views.
        temperature: t.
        base_temperature: t_0 of the factor t / t_0, which official code of Khosla et al. carries; None: no factor.
        weight: a number, or a function of the phase's epoch.
        name: where one phase has several contrasts.
        projector: the embeddings go through it; one for all contrasts of a method, listed in its parts, and given to its optimizer as
            `losses.*` by `ProjectedContrast`. None: none.

    Raises ValueError for roles in no list, or a temperature that is not positive.
    """

    def __init__(
        self,
        roles: Sequence[str] = ("teacher",),
        *,
        temperature: float = 0.07,
        base_temperature: float | None = None,
        weight: float | Callable[[int], float] = 1.0,
        name: str = "supervised_contrastive",
        projector: Projector | None = None,
    ) -> None:
        if isinstance(roles, str):
            raise ValueError(f"SupervisedContrastive: roles must stand in a list, as in [teacher], or [] for two views; got {roles!r}.")
        for which, value in (("temperature", temperature), ("base_temperature", base_temperature)):
            if value is not None and not value > 0:
                raise ValueError(f"SupervisedContrastive: {which} must be positive, got {value}.")
        self.roles, self.temperature, self.weight, self.name = tuple(roles), temperature, weight, name
        self.factor = 1.0 if base_temperature is None else temperature / base_temperature
        self.needs = frozenset({"frozen_view", *roles} if roles else {"two_views"})
        self._projector = (projector,)  # a tuple: of several contrasts one registers its parameters

    def __call__(self, ctx: Context) -> Tensor:
        views = self._views(ctx)  # [B, E] or [B, d] each
        (labels, *views), valid = gather_batch(ctx.batch["index"], ctx.labels, *views)
        loss = self.factor * supervised_contrastive(views, labels, temperature=self.temperature, valid=valid)
        return as_own_share(loss, len(ctx.labels), valid)

    def _views(self, ctx: Context) -> list[Tensor]:
        own = ctx.views[:1] if self.roles else ctx.views
        projector = self._projector[0]
        if projector is None:
            return [view.embedding for view in own] + [ctx.frozen(role, view=-1).embedding for role in self.roles]
        return [projector(view.embedding) for view in own] + [projector(ctx.frozen(r, view=-1).embedding, r) for r in self.roles]


class ProjectedContrast(SupervisedContrastive, nn.Module):  # pyright: ignore[reportIncompatibleMethodOverride]  # a loss's state is its own
    """The contrast that trains its projector: the projector's parameters are its own, `losses.<name>.projector.*`."""

    def __init__(self, roles: Sequence[str], *, projector: Projector, **settings: Any) -> None:
        nn.Module.__init__(self)
        SupervisedContrastive.__init__(self, roles, projector=projector, **settings)
        self.projector = projector

    __call__ = SupervisedContrastive.__call__
