"""Each image is a test before it is trained on.

Shapes: B batch, M batches of all processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from hf_cl.contracts import Probe, Session, Trainer
from hf_cl.losses.global_batch import gather_batch


class Prequential(Probe):
    """Prequential accuracy: the share of the stream's images that the model named right in the step that then trained on them.

    Dawid, "Present position and potential developments: the prequential approach" (JRSS A 1984); for streams Gama, Sebastiao, Rodrigues,
    "On evaluating stream learning algorithms" (Machine Learning 2013). It costs no forward: predictions are those of the step's first
    pass, as training sees the images (augmented, with dropout), among the classes that have come with this batch. Replayed images do not
    count. Of ordered sessions alone, where each image comes once.

    `begin_session` raises ValueError for a session that is not ordered.
    """

    name = "prequential"

    def __init__(self) -> None:
        self._sums = torch.zeros(2, dtype=torch.long)  # right, all: of this session
        self._sessions: list[list[int]] = []  # the same of sessions that have ended

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if session.exposed is None:
            raise ValueError(
                "The probe prequential tests an image before it is trained on for the first time, so it needs a stream in which each comes "
                "once: protocol si_blurry, or class_incremental with --protocol_options '{online: true}'."
            )
        self._sums = torch.zeros(2, dtype=torch.long, device=trainer.accelerator.device)

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        for ctx in trainer.contexts:
            if ctx.update:  # it has been trained on by now
                continue
            right = ctx.logits[:, : ctx.exposed].argmax(-1) == ctx.labels  # [B]
            own = ~ctx.batch["replayed"] if "replayed" in ctx.batch else torch.ones_like(right)  # [B]
            (rights, owns), valid = gather_batch(ctx.batch["index"], right, own)  # [M] of all processes
            self._sums += torch.stack([(rights & owns & valid).sum(), (owns & valid).sum()])

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._sessions.append(self._sums.tolist())

    def report(self) -> dict[str, Any]:
        right, images = (sum(session[i] for session in self._sessions) for i in range(2))
        of_each = [right / images if images else None for right, images in self._sessions]
        return {"accuracy": right / images if images else None, "sessions": of_each}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._sums, self._sessions = state["sums"].to(self._sums.device), [list(session) for session in state["sessions"]]
