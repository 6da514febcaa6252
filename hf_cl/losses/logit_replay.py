"""Replayed images keep the logits that they had.

Shapes: m exemplars, B batch, C classes seen so far, K classes seen when an exemplar was chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm, Session, Trainer
from hf_cl.losses.replayed import mean_of_replayed
from hf_cl.memory import Exemplars


class LogitReplay(LossTerm):
    """Mean over replayed images, and over the classes known when they were chosen, of `(z - z_then)^2`.

    Buzzega et al., "Dark Experience for General Continual Learning: a Strong, Simple Baseline" (NeurIPS 2020), equation 6, whose weight is
    its alpha. There the memory is filled step by step with the logits of that step; here logits are those at the end of the session that
    chose the image, of the picture as evaluation sees it, without dropout. Columns of classes that came later are left alone: the published
    code has all columns from the beginning.

    Args:
        weight: a number, or a function of the phase's epoch.

    `begin_session` raises ValueError for a memory that keeps no images.
    """

    name = "logit_replay"
    needs = frozenset({"all_classes", "memory"})

    def __init__(self, weight: float | Callable[[int], float] = 0.5) -> None:
        self.weight = weight
        self._logits: dict[int, Tensor] = {}  # number of an exemplar -> [K]
        self._kept: list[int] = []  # numbers, in the order of the memory's images
        self._classes, self._device = 0, torch.device("cpu")
        self._table = self._known = torch.empty(0, 0)

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._kept, self._classes = [exemplar.number for exemplar in _exemplars(trainer).kept], len(session.class_names)
        self._device = trainer.accelerator.device
        self._tabulate()

    def _tabulate(self) -> None:
        """In the order of the memory's images, on the device before a step needs them: the logits [m, C], and which are known [m, C]."""
        self._logits = {number: row.to(self._device) for number, row in self._logits.items()}  # a checkpoint has them on the host
        table = torch.full((len(self._kept), self._classes), torch.nan, device=self._device)  # [m, C]
        for row, number in enumerate(self._kept):
            if number in self._logits:
                table[row, : len(self._logits[number])] = self._logits[number]
        self._table, self._known = table.nan_to_num(0.0), table.isfinite()

    def __call__(self, ctx: Context) -> Tensor:
        exemplar = ctx.batch.get("exemplar")
        if exemplar is None:
            return 0.0 * ctx.logits.sum()
        rows = exemplar.clamp(min=0)  # [B]
        then, known = self._table[rows], self._known[rows]  # [B, C], [B, C]
        distances = (ctx.logits.float() - then).square()  # [B, C]
        values = distances.masked_fill(~known, 0.0).sum(1) / known.sum(1).clamp(min=1)  # [B]
        return mean_of_replayed(values, ctx)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        """The memory has chosen: keep the logits of what is new in it, and forget those of what is gone."""
        memory = _exemplars(trainer)
        new = [exemplar for exemplar in memory.kept if exemplar.session == session.id]
        data = trainer.features_of(session.train)
        places = {index: position for position, index in enumerate(data.index.tolist())}
        kept = {exemplar.number for exemplar in memory.kept}
        self._logits = {number: logits for number, logits in self._logits.items() if number in kept}
        if new:
            chosen = torch.tensor([places[exemplar.index] for exemplar in new], device=data.features.device)
            was_training = trainer.head.training
            trainer.head.train()  # the rows that train, where eval mode has others
            with torch.no_grad():
                logits = trainer.head(data.features[chosen]).float()  # [k, K]
            trainer.head.train(was_training)
            self._logits |= {exemplar.number: row for exemplar, row in zip(new, logits, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        return {"numbers": list(self._logits), "logits": list(self._logits.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._logits = dict(zip(state["numbers"], state["logits"], strict=True))
        self._tabulate()


def _exemplars(trainer: Trainer) -> Exemplars:
    if not isinstance(trainer.memory, Exemplars):
        raise ValueError("The loss logit_replay keeps logits beside images, so it needs a memory of type exemplars.")
    return trainer.memory
