"""Features of earlier classes, drawn from their statistics, beside every batch.

Shapes: B batch, C classes seen so far, O classes of earlier sessions, D feature width, n rows that are drawn.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Context, LossTerm, Session, Trainer

logger = logging.getLogger(__name__)
EPS = 1e-4
"""On the diagonal of a covariance, before its Cholesky factor is taken."""


class FeatureReplay(LossTerm):
    """Cross-entropy, among all classes seen, of features drawn from the Gaussians of earlier classes: replay without an image.

    `- mean log softmax(head(f_j))_{c_j}` with `f_j = mean_scale mu_c + L_c z_j`, the classes in turn, so that over any stretch of steps
    their counts differ by one at most. The analogue, for features, of the generated queries of Mehta et al., "DSI++: Updating Transformer
    Memory with New Documents" (EMNLP 2023): statistics are the generator, and nothing is trained for it.

    The gradient reaches the head alone. It is exact while the features of earlier classes stand still (`adapt_sessions: first`); under an
    adapter that trains the statistics age, which a part `drift_map` or `feature_distillation` counters. The main loss must let all classes
    compete. Every process draws the same rows; draws are a function of seed, session and step.

    Args:
        weight: a number, or a function of the phase's epoch.
        ratio: rows drawn per image of the step.
        covariance: "full", or "diag" for much less memory.
        shrinkage: of a covariance towards a multiple of the identity.
        mean_scale: of the means.

    Raises ValueError for settings out of range, and `begin_session` for a step that would draw no row.
    """

    name = "feature_replay"
    first_session = 1
    needs = frozenset({"all_classes"})

    def __init__(
        self,
        weight: float | Callable[[int], float] = 1.0,
        ratio: float = 1.0,
        covariance: Literal["full", "diag"] = "full",
        shrinkage: float = 0.0,
        mean_scale: float = 1.0,
    ) -> None:
        if not ratio > 0:
            raise ValueError(f"FeatureReplay: ratio must be positive, got {ratio}.")
        if covariance not in ("full", "diag"):
            raise ValueError(f"FeatureReplay: covariance must be 'full' or 'diag', got {covariance!r}.")
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"FeatureReplay: shrinkage must lie between 0 and 1, got {shrinkage}.")
        self.weight, self.ratio, self.covariance, self.shrinkage, self.mean_scale = weight, ratio, covariance, shrinkage, mean_scale
        self.statistics = frozenset({covariance, "pooled"})
        self._means = self._factors = self._classes = torch.empty(0)
        self._ready = False

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._trainer, self._session = trainer, session
        self._ready = False
        size = session.batch_size or len(session.train)
        self._rows = round(self.ratio * min(size, len(session.train)))
        if self._rows < 1:
            raise ValueError(f"FeatureReplay: ratio {self.ratio} draws no row in steps of {size}; at least {1 / size:g} draws one.")

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        self._tabulate()

    def _tabulate(self) -> None:
        """Means [O, D] and factors [O, D, D] (or [O, D]) of the earlier classes, once a session; after a resume, in its first step."""
        if self._ready:
            return
        statistics, device = self._trainer.statistics, self._trainer.accelerator.device
        earlier = [label for label in statistics.classes if label not in self._session.own or not self._session.new_class_names]
        if not earlier:  # session 0, which a loss that begins later hears of
            return
        self._classes = torch.tensor(earlier, device=device)  # [O]
        self._means = self.mean_scale * statistics.means(earlier).float().to(device)  # [O, D]
        self._factors = torch.stack([factor_of(statistics, label, self.covariance, self.shrinkage) for label in earlier]).float().to(device)
        self._ready = True

    def end_session(self, trainer: Trainer, session: Session) -> None:
        trainer.class_statistics(session)

    def __call__(self, ctx: Context) -> Tensor:
        self._tabulate()
        generator = self._trainer.generator_for("feature_replay", ctx.session.id, ctx.step)
        noise = torch.randn(self._rows, self._means.shape[1], generator=generator)  # [n, D]
        first = ctx.step * self._rows
        features, labels = drawn(self._means, self._factors, self._classes, first, noise.to(self._means.device, non_blocking=True))
        logits = self._trainer.head(features)[:, : ctx.exposed]  # [n, C]
        return F.cross_entropy(logits.float(), labels)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The tables are made anew of the statistics, which are restored after the losses."""
        self._ready = False


def factor_of(statistics: Any, label: int, covariance: str, shrinkage: float) -> Tensor:
    """[D, D] lower Cholesky factor of the usable covariance, or [D] square roots of its diagonal; float64."""
    if covariance == "diag":
        variances = statistics.variances(label) if statistics.count(label) > 1 else statistics.pooled_covariance().diagonal()
        return ((1 - shrinkage) * variances + shrinkage * variances.mean() + EPS).sqrt()
    return torch.linalg.cholesky(statistics.usable_covariance(label, eps=EPS, shrinkage=shrinkage))


def drawn(means: Tensor, factors: Tensor, classes: Tensor, first: int, noise: Tensor) -> tuple[Tensor, Tensor]:
    """[n, D] features and [n] labels for given noise [n, D]: row j is of the class at `(first + j) mod O`.

    Rows of one class are made together, so that no factor is copied for each row.
    """
    rows, of = len(noise), len(means)
    together = min(of, rows)
    turns = -(-rows // together)
    places = (torch.arange(together, device=means.device) + first) % of  # [O'] in turn, each once
    padded = F.pad(noise, (0, 0, 0, turns * together - rows)).view(turns, together, -1)  # [turns, O', D]
    chosen = factors[places]  # [O', D, D] or [O', D]
    spread = padded * chosen if chosen.dim() == 2 else torch.einsum("ode,toe->tod", chosen, padded)  # [turns, O', D]
    features = (means[places] + spread).flatten(0, 1)[:rows]  # [n, D]
    return features, classes[places].repeat(turns)[:rows]
