"""The rows of all sessions are trained together on features drawn from class Gaussians.

Shapes: C classes seen so far, D feature width, n draws of a class, B batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number
from hf_cl.heads.linear import LinearHead
from hf_cl.heads.rows import class_rows

logger = logging.getLogger(__name__)

EPS = 1e-7


class ClassifierAlignment(Part):
    """Classifier alignment of SLCA (Zhang et al., "Slow Learner with Classifier Alignment", ICCV 2023, arXiv 2303.05118; SLCA++: arXiv
    2408.08295).

    Rows that were trained apart, each among the classes of its own session, differ in length and bias. At the end of each session but the
    first, all of them are trained on features that are drawn from every class's Gaussian, as the run's class statistics have it. The next
    session begins with the rows as they were before, so that alignment never adds up; what is evaluated and saved is aligned. Hence a run
    is continued from its checkpoints, and not from a saved adapter alone.

    Args:
        samples_per_class: drawn anew in every epoch; the batch size too, so that an epoch has C steps.
        epochs: of the alignment; its rate falls to 0 by a cosine per epoch.
        learning_rate, momentum, weight_decay: of SGD.
        logit_norm: logits are divided by their length within a session, averaged over sessions, and by this temperature (Wei et al.,
            "Mitigating Neural Network Overconfidence with Logit Normalization", ICML 2022); None: plain cross-entropy.
        mean_shrink: the mean of a class of session s at the end of session t is multiplied by `1 - mean_shrink (t - s) / (t + 1)`.
        feature_scale_jitter: with a head whose rows age: drawn features are divided by 1 + u age, u uniform around the head's `age_scale`.
        restore: whether the next session begins with the rows before alignment.
        covariance: what is kept of each class: "full", or "low_rank" (32 directions, a twentieth of the bytes at a width of 768).

    Raises ValueError for a value out of range, and at the beginning of a run whose head is not linear.
    """

    def __init__(
        self,
        *,
        samples_per_class: int = 256,
        epochs: int = 5,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        logit_norm: float | None = 0.1,
        mean_shrink: float = 0.1,
        feature_scale_jitter: float = 0.0,
        restore: bool = True,
        covariance: Literal["full", "low_rank"] = "full",
    ) -> None:
        name = "ClassifierAlignment"
        check_count(name, "samples_per_class", samples_per_class, 1, 2**20)
        check_count(name, "epochs", epochs, 1, 10**6)
        check_number(name, "learning_rate", learning_rate, 0.0, math.inf, "a number from 0")
        check_number(name, "momentum", momentum, 0.0, 1.0, "a number from 0 to below 1")
        check_number(name, "weight_decay", weight_decay, 0.0, math.inf, "a number from 0")
        if logit_norm is not None:
            check_number(name, "logit_norm", logit_norm, math.ulp(0.0), math.inf, "null or a positive number")
        check_number(name, "mean_shrink", mean_shrink, 0.0, math.nextafter(1.0, 2.0), "a number from 0 to 1")
        check_number(name, "feature_scale_jitter", feature_scale_jitter, 0.0, math.inf, "a number from 0")
        check_bool(name, restore=restore)
        if covariance not in ("full", "low_rank"):
            raise ValueError(f"{name}: covariance is full or low_rank, got {covariance!r}.")
        self.samples_per_class, self.epochs = samples_per_class, epochs
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.logit_norm, self.mean_shrink, self.feature_scale_jitter = logit_norm, mean_shrink, feature_scale_jitter
        self.restore = restore
        self.needs_first_session = "the rows before alignment, and which session brought which class, are in its checkpoints alone"
        self.statistics = frozenset({covariance})
        if covariance == "low_rank":
            self.new_classes_only = "a covariance of low rank takes no more samples of a class (`covariance: full` does)"
        self._first: list[int] = []
        self._backup: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """The rows of earlier classes as they were before the last alignment."""
        head = trainer.head
        if type(head) is not LinearHead:
            raise ValueError(
                f"ClassifierAlignment trains the rows of a linear head on drawn features, and this run has a {type(head).__name__}: "
                "give it `head: {type: linear}`, without a pooler."
            )
        if self.feature_scale_jitter and not head.age_scale:
            raise ValueError("feature_scale_jitter goes with a head whose rows age: give it an `age_scale`, such as 0.02.")
        if session.id == 0:
            self._first, self._backup = [], {}
        self._first.append(session.first_new_class)
        rows = class_rows(head)
        for name, old in self._backup.items():
            rows[name][: len(old)] = old.to(rows[name].device)
        self._backup = {}

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Align the rows of all sessions; in session 0 there is nothing to align."""
        statistics = trainer.class_statistics(session)
        if session.id == 0:
            return
        head: Any = trainer.head
        if self.restore:
            self._backup = {name: row.detach().clone() for name, row in class_rows(head).items()}
        rows = {name: row.detach().clone().requires_grad_() for name, row in class_rows(head).items()}
        bounds = [*self._first, len(session.class_names)]
        optimizer = torch.optim.SGD(rows.values(), lr=self.learning_rate, momentum=self.momentum, weight_decay=self.weight_decay)
        loss = torch.zeros(())
        for epoch in range(self.epochs):
            optimizer.param_groups[0]["lr"] = self.learning_rate * (1 + math.cos(math.pi * epoch / self.epochs)) / 2
            generator = trainer.generator_for("classifier_alignment", session.id, epoch)
            features, labels = self._draw(statistics, bounds, head, generator)
            for batch in torch.randperm(len(labels), generator=generator).split(self.samples_per_class):
                inputs, targets = features[batch].to(head.weight), labels[batch].to(head.weight.device)
                with torch.enable_grad():
                    logits = functional_call(head, rows, (inputs,))  # [B, C]
                    loss = alignment_loss(logits, targets, bounds, self.logit_norm)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        logger.info("Classifier alignment of %d classes: loss %.3g at the end", len(session.class_names), loss)
        for name, row in class_rows(head).items():
            row.copy_(rows[name])
        as_on_rank_0(class_rows(head).values())

    def _draw(self, statistics: Any, bounds: Sequence[int], head: LinearHead, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[C n, D] float64 features of all classes and their labels [C n]."""
        count, last = self.samples_per_class, len(bounds) - 2
        features, labels = [], []
        for s, (first, end) in enumerate(pairwise(bounds)):
            for label in range(first, end):
                drawn = statistics.sample(label, count, generator, mean_scale=mean_scale(self.mean_shrink, s, last))  # [n, D]
                if head.age_scale:
                    noise = torch.rand(count, 1, dtype=torch.float64, generator=generator)
                    drawn = drawn / (1 + (head.age_scale + self.feature_scale_jitter * (2 * noise - 1)) * (last - s))
                features.append(drawn)
                labels.append(torch.full((count,), label))
        return torch.cat(features), torch.cat(labels)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first, "backup": self._backup}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._first, self._backup = list(state["first"]), dict(state["backup"])


def mean_scale(shrink: float, session: int, last: int) -> float:
    """By which the mean of a class of `session` is multiplied at the end of session `last`."""
    return 1 - shrink + shrink * (session + 1) / (last + 1)


def alignment_loss(logits: Tensor, labels: Tensor, bounds: Sequence[int], logit_norm: float | None) -> Tensor:
    """[] cross-entropy of logits [B, C], divided by their mean length within the sessions whose columns `bounds` part.

    The lengths take part in the gradient.
    """
    if logit_norm is None:
        return F.cross_entropy(logits, labels)
    norms = [logits[:, first:end].norm(dim=1, keepdim=True) + EPS for first, end in pairwise(bounds) if end > first]  # each [B, 1]
    return F.cross_entropy(logits / torch.cat(norms, 1).mean(1, keepdim=True) / logit_norm, labels)
