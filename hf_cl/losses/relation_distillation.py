"""Rows of earlier classes follow the features, by what they say of new images.

Shapes: B batch, V views of it, M samples of all processes times V, E embedding width, o earlier classes, S earlier sessions, n classes of
the largest of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.global_batch import as_own_share, gather_batch
from hf_cl.losses.prototype import trained_rows

logger = logging.getLogger(__name__)
SATURATED = 0.95
"""Mean probability of the previous model's first choice from which on its distributions say next to nothing."""


class Relations(NamedTuple):
    """How the columns of earlier classes are compared."""

    columns: Tensor
    """[S, n] of each session that is compared over its classes; 0 where it has fewer than n."""
    filled: Tensor
    """[S, n] bool."""
    together: Tensor
    """[o] int64: how many classes the session of each has, where it is compared over the samples; else 0."""


class RelationDistillation(LossTerm):
    """How new images relate to the rows of each earlier session stays what it was under the previous model, whose images are gone.

    PRD (Asadi et al., "Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning", ICML 2023, arXiv 2303.14771; code:
    github.com/naderAsadi/Probing-Continual-Learning). With the scores `s(f, P) = f P^T / |P|` (rows at unit length, embeddings as they
    are), P_t the rows of session t, and ^ for the previous model and its rows:

        axis "class":   sum_t mean_i KL( softmax_c s(f^_i, P^_t) / T || softmax_c s(f_i, P_t) / T )      c over the classes of session t
        axis "sample":  sum_t mean_c KL( softmax_i s(f^_i, P^_tc) / T || softmax_i s(f_i, P_tc) / T )    i over the views of the batch

    The gradient reaches the encoder and the earlier rows. Over the classes of a session of one class there is nothing to distribute: such
    sessions are compared over the samples. Axis "sample" is over the whole global batch, inside each micro-batch.

    It stands in the method's `parts` too, so that it hears of session 0.

    Args:
        weight: a number, or a function of the phase's epoch.
        temperature: T.
        axis: what the distributions are over. The official code has "class"; where features are turned, rows follow better under "sample".
        normalize_features: embeddings at unit length too; T is about 0.1 then.
        reduce: "sum" over earlier sessions, so that the weight of the term grows with their number, or their "mean".

    Raises ValueError for settings out of range, and at the beginning of a session whose head has no rows of classes that train.
    """

    name = "relation_distillation"
    needs = frozenset({"previous"})
    first_session = 1

    def __init__(
        self,
        weight: float | Callable[[int], float] = 4.0,
        temperature: float = 1.0,
        axis: Literal["class", "sample"] = "class",
        normalize_features: bool = False,
        reduce: Literal["sum", "mean"] = "sum",
    ) -> None:
        if not temperature > 0:
            raise ValueError(f"RelationDistillation: temperature must be positive, got {temperature}.")
        if axis not in ("class", "sample"):
            raise ValueError(f"RelationDistillation: axis must be 'class' or 'sample', got {axis!r}.")
        if reduce not in ("sum", "mean"):
            raise ValueError(f"RelationDistillation: reduce must be 'sum' or 'mean', got {reduce!r}.")
        self.weight, self.temperature, self.axis, self.normalize_features, self.reduce = (
            weight,
            temperature,
            axis,
            normalize_features,
            reduce,
        )
        self._starts: list[int] = []  # first class of each session that brought some
        self._before = torch.empty(0)  # [o, E] earlier rows as the session found them
        self._relations = relations_of([0], axis, torch.device("cpu"))
        self._device = torch.device("cpu")

    # Hooks
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._head, self._device = trainer.head, trainer.accelerator.device
        rows, first = trained_rows(self._head, type(self).__name__), session.first_new_class
        self._starts = [*(start for start in self._starts if start < first), *([first] if session.new_class_names else [])]
        self._keep(rows[:first].detach().clone())
        if first:
            self._look_at(trainer, session)

    def state_dict(self) -> dict[str, Any]:
        return {"starts": list(self._starts), "before": self._before}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._starts = [int(start) for start in state["starts"]]
        self._keep(state["before"])

    def _keep(self, before: Tensor) -> None:
        """Earlier rows, with what says how they are compared."""
        self._before = before.to(self._device)
        self._relations = relations_of(self._bounds(), self.axis, self._device)

    # The term
    def __call__(self, ctx: Context) -> Tensor:
        relations = self._relations
        rows = trained_rows(self._head, type(self).__name__)[: len(self._before)]  # [o, E]
        now = torch.stack([self._scores(view.embedding, rows) for view in ctx.views], 1)  # [B, V, o]
        earlier = [ctx.frozen("previous", view=number).embedding for number in range(len(ctx.views))]  # [B, E] each
        then = torch.stack([self._scores(embedding, self._before) for embedding in earlier], 1)  # [B, V, o]
        value = over_classes(then.flatten(0, 1), now.flatten(0, 1), relations) if len(relations.columns) else now.new_zeros(())
        if len(relations.columns) < self._sessions:
            (then, now), valid = gather_batch(ctx.batch["index"], then, now)
            counted = valid.repeat_interleave(len(ctx.views))  # [M]
            value = value + as_own_share(over_samples(then.flatten(0, 1), now.flatten(0, 1), relations, counted), len(ctx.labels), valid)
        return value / self._sessions if self.reduce == "mean" else value

    def _scores(self, embedding: Tensor, rows: Tensor) -> Tensor:
        """[B, E], [o, E] -> [B, o], over T"""
        wide = torch.promote_types(rows.dtype, torch.float32)
        with torch.autocast(rows.device.type, enabled=False):
            features = embedding.to(wide)
            features = F.normalize(features, dim=-1) if self.normalize_features else features
            return features @ F.normalize(rows.to(wide), dim=-1).T / self.temperature

    # What is compared how
    @property
    def _sessions(self) -> int:
        return len(self._bounds()) - 1

    def _bounds(self) -> list[int]:
        """[S + 1]. Classes that came before the run heard of any are one session: those of an adapter that it started from."""
        count = len(self._before)
        return [*sorted({0, *(start for start in self._starts if start < count)}), count]

    def _look_at(self, trainer: Trainer, session: Session) -> None:
        """Say what the term weighs, and where the previous model's distributions say nothing."""
        relations = self._relations
        factor = self._sessions if self.reduce == "sum" else 1
        logger.info(
            "relation_distillation: session %d holds %d earlier ones, at the weight %g.", session.id, factor, factor * self.weight_at(0)
        )
        if all(name.startswith(("head.", "losses.")) for name, _ in trainer.named_parameters):
            logger.warning("relation_distillation: nothing trains before the features, so that it moves earlier rows alone.")
        if self.axis == "class" and len(relations.columns) < self._sessions:
            logger.warning(
                "relation_distillation: sessions of one class have no distribution over classes; they are compared over samples."
            )
        if len(relations.columns):
            sure = self._sureness(trainer, session, relations)
            if sure > SATURATED:
                logger.warning(
                    "relation_distillation: the previous model gives its first choice in a session %.3f on average, so that little is left "
                    "to distil; raise the temperature (%g).",
                    *(sure, self.temperature),
                )

    @torch.no_grad()
    def _sureness(self, trainer: Trainer, session: Session, relations: Relations) -> float:
        """Mean probability of the first choice among the classes of an earlier session, for the session's images."""
        features = trainer.features_of(session.train).features.to(self._before)
        scores = self._scores(trainer.head.embed(features), self._before)  # [images, o]
        return _log_softmax(scores, relations).exp().amax(-1).mean().item()


def relations_of(bounds: list[int], axis: str, device: torch.device) -> Relations:
    """Of sessions between `bounds`, [S + 1]."""
    spans = list(pairwise(bounds))
    shared = [(first, last) for first, last in spans if axis == "class" and last - first > 1]
    widest = max((last - first for first, last in shared), default=0)
    columns = torch.zeros(len(shared), widest, dtype=torch.long)  # [S, n]
    filled = torch.zeros(len(shared), widest, dtype=torch.bool)
    together = torch.zeros(bounds[-1], dtype=torch.long)  # [o]
    for number, (first, last) in enumerate(shared):
        columns[number, : last - first] = torch.arange(first, last)
        filled[number, : last - first] = True
    for first, last in set(spans) - set(shared):
        together[first:last] = last - first
    return Relations(columns.to(device), filled.to(device), together.to(device))


def over_classes(then: Tensor, now: Tensor, relations: Relations) -> Tensor:
    """Sum over sessions of the mean divergence of the rows of scores, [N, o], among the session's classes."""
    p, q = _log_softmax(then, relations), _log_softmax(now, relations)  # [N, S, n]
    return torch.where(relations.filled, p.exp() * (p - q), 0).sum((1, 2)).mean()


def over_samples(then: Tensor, now: Tensor, relations: Relations, counted: Tensor) -> Tensor:
    """Sum over sessions of the mean divergence of the columns of scores, [M, o], among the samples that are `counted`, [M] bool."""
    outside = ~counted[:, None]  # [M, 1]
    p, q = (scores.masked_fill(outside, torch.finfo(scores.dtype).min).log_softmax(0) for scores in (then, now))  # [M, o]
    divergence = (p.exp() * (p - q)).masked_fill(outside, 0).sum(0)  # [o]
    return torch.where(relations.together > 0, divergence / relations.together.clamp(min=1), 0).sum()


def _log_softmax(scores: Tensor, relations: Relations) -> Tensor:
    """[N, o] -> [N, S, n]"""
    return scores[:, relations.columns].masked_fill(~relations.filled, torch.finfo(scores.dtype).min).log_softmax(-1)
