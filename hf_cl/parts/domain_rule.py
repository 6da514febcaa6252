"""By what an image of a SESSION_NORM adapter finds its domain.

Shapes: B batch, D width of the tower, F = 2 D numbers that tell an image's domain, S domains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.adapters import SessionNormModel
from hf_cl.adapters.session_norm.domains import UNSEEN
from hf_cl.contracts import Part, Session, Trainer, domains_of
from hf_cl.heads.gaussian_fit import Gaussians, shared_layer


class DomainRule(Part):
    """Before a session trains, fits a linear rule to its images and those of earlier sessions that says of which domain an image is.

    Fisher's: a Gaussian for each domain, of one covariance (shrunk by the share F / (F + n - S)), over mean and log deviation of the tokens
    at the first norm, where the adapter has changed nothing yet; so the rule of old domains never goes stale. It costs the embeddings of
    each image once, and is written into the adapter, S (F + 1) numbers. A checkpoint holds count and mean of each domain and their scatter
    [F, F] in float64.

    Raises ValueError at the beginning of a session whose adapter is not SESSION_NORM, or whose images have no domain.
    """

    def __init__(self) -> None:
        self._sessions: list[int] = []
        self._all_new = True
        """Whether no earlier session had images of the domains of this one."""
        self._counts = torch.zeros(0, dtype=torch.float64)  # [S]
        self._sums = torch.zeros(0, 0, dtype=torch.float64)  # [S, F]
        self._squares = torch.zeros(0, 0, dtype=torch.float64)  # [F, F] the sum of x x^T

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        tuner = trainer.tuner
        if not isinstance(tuner, SessionNormModel):
            raise ValueError(f"DomainRule needs a SESSION_NORM adapter; this run has a {type(tuner).__name__}. Leave the part out.")
        if domains_of(session.train) is None:
            raise ValueError(f"DomainRule: the images of session {session.id} have no domain. Leave the part out, or say --domain_column.")
        name = tuner.active_adapters[0]
        config: Any = tuner.peft_config[name]
        if session.id not in self._sessions:
            self._add(trainer, tuner, name, session, config.num_domains)
            self._sessions.append(session.id)
        tuner.write_rule(name, self.rule(config.num_domains))

    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """Under a table the norms of earlier domains rest: where all of the session's are new, what was kept of earlier images holds."""
        tuner: Any = trainer.tuner
        config = tuner.peft_config[tuner.active_adapters[0]]
        if config.conditioning == "table" and self._all_new:
            trainer.statistics.apply_linear(None, torch.zeros(1), classes=())  # looked after, and nothing to move

    @torch.no_grad()
    def _add(self, trainer: Trainer, tuner: SessionNormModel, name: str, session: Session, count: int) -> None:
        sums: list[Tensor] = []
        for batch in trainer.batches_of(session.train):
            seen, own = tuner.looks(name, batch["pixel_values"]).cpu().double(), batch["domain"].cpu()  # [B, F], [B]
            each = torch.nn.functional.one_hot(own, count).double()  # [B, S]
            found = [each.sum(0), each.T @ seen, seen.T @ seen]
            sums = [before + new for before, new in zip(sums, found, strict=True)] if sums else found
        if trainer.accelerator.num_processes > 1:
            sums = [trainer.accelerator.reduce(part.to(trainer.accelerator.device), reduction="sum").cpu() for part in sums]
        width = sums[2].shape[1]
        before = _padded(self._counts, count)
        self._all_new = not bool((before * sums[0]).any())
        self._counts = before + sums[0]
        self._sums = _padded(self._sums.reshape(-1, width), count) + sums[1]
        self._squares = sums[2] if not len(self._squares) else self._squares + sums[2]

    def rule(self, count: int) -> Tensor:
        """[S, F + 1] weights and bias for each domain; those without images never win."""
        seen = self._counts > 0
        means = self._sums[seen] / self._counts[seen, None]  # [S', F]
        scatter = self._squares - means.T @ (self._counts[seen, None] * means)
        of = Gaussians(self._counts[seen], means, scatter)
        weight, bias = shared_layer(of, of.cholesky(of.rule_shrinkage()))
        rule = torch.zeros(count, means.shape[1] + 1)
        rule[:, -1] = UNSEEN
        rule[seen.nonzero()[:, 0]] = torch.cat([weight, bias[:, None]], dim=1).float()
        return rule

    def report(self) -> dict[str, Any]:
        return {"images": self._counts.int().tolist()}

    def state_dict(self) -> dict[str, Any]:
        return {
            "sessions": list(self._sessions),
            "all_new": self._all_new,
            "counts": self._counts,
            "sums": self._sums,
            "squares": self._squares,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions, self._all_new = list(state["sessions"]), state["all_new"]
        self._counts, self._sums, self._squares = state["counts"], state["sums"], state["squares"]


def _padded(rows: Tensor, count: int) -> Tensor:
    """With zeros for domains that have come."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), *rows.shape[1:])])
