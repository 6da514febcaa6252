"""How often training images are forgotten while they are learned.

Shapes: B batch, M batches of all processes, n images of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.losses.global_batch import gather_batch
from hf_cl.memory.sample_table import SampleTable


class ForgettingEvents(Probe):
    """Per session: forgetting events per training image, the share of images with one, and the share never named right.

    Toneva et al., "An Empirical Study of Example Forgetting during Deep Neural Network Learning" (ICLR 2019): an event is an image that was
    named right when it was last trained on and is named wrong now. Predictions are those of the training forward, among the classes that
    compete, so nothing is computed for it. Flat minima are said to have fewer (Mehta et al., "DSI++", EMNLP 2023).
    """

    name = "forgetting_events"

    def __init__(self) -> None:
        self._table: SampleTable | None = None
        """[n, 4]: right at the last visit, ever right, events, visits."""
        self._first = 0
        self._sessions: list[dict[str, float]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._table = SampleTable(session.training_images.indices, 4, device=trainer.accelerator.device)
        alone = min(session.training_images.labels) >= session.own.start
        self._first = session.own.start if alone else 0

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        if self._table is None:
            return
        for ctx in trainer.contexts:
            right = ctx.logits[:, self._first : ctx.exposed].argmax(-1) + self._first == ctx.labels  # [B]
            (ids, rights), valid = gather_batch(ctx.batch["index"], ctx.batch["index"], right)  # [M] each
            rows, _ = self._table.read(ids)  # [M, 4]
            self._table.write(ids, visited(rows, rights), valid)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if self._table is None:
            return
        rows = self._table.values[:-1]  # [n, 4]
        seen = (rows[:, 3] > 0).double()  # [n]
        count = seen.sum().clamp(min=1)
        events = rows[:, 2].double()
        values = torch.stack([events.sum(), (events > 0).double().sum(), ((rows[:, 1] == 0).double() * seen).sum()]) / count
        numbers = dict(zip(("events_per_image", "with_an_event", "never_right"), values.tolist(), strict=True))
        self._sessions.append({"session": session.id, **numbers})
        self._table = None

    def report(self) -> dict[str, Any]:
        last = {key: value for key, value in self._sessions[-1].items() if key != "session"} if self._sessions else {}
        return {**last, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self._sessions} | ({} if self._table is None else {"table": self._table.state_dict()})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sessions = list(state["sessions"])
        if "table" in state and self._table is not None:
            self._table.load_state_dict(state["table"])


def visited(rows: Tensor, right: Tensor) -> Tensor:
    """[B, 4] the rows of images after a visit at which they were named right or not, [B]."""
    last, ever, events, visits = rows.unbind(1)
    now = right.to(rows.dtype)
    return torch.stack([now, torch.maximum(ever, now), events + last * (1 - now), visits + 1], 1)
