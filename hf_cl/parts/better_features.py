"""Whether what an adapter learned in session 0 helps the head: kept where it does, undone where it does not.

Shapes: n images of session 0, D feature width.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.held_back import held_back
from hf_cl.heads.without_some import WithoutSome
from hf_cl.memory.class_statistics import ClassStatistics

logger = logging.getLogger(__name__)

ENOUGH_CLASSES = 30
"""With fewer in session 0, its held-back fifth says little about the classes that will come, and the adapter stays as it was trained."""


class BetterFeatures(Part):
    """After session 0 the run's head is fitted twice to four fifths of its images: on the features of the trained adapter, and on those of
    the untouched backbone. The adapter stays only if it wins on the last fifth by more than one standard error of the difference, taken
    image by image; else it is emptied, so that the run goes on as `frozen` would.

    For an adapter that trains in session 0 alone under a head that is fitted (`adapt_sessions: first_if_better`), of a type that can be
    emptied: one whose weights add something to the base's, which zero does not. Prefix rows take part in the softmax whatever they are.
    """

    name = "better_features"

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """Raises ValueError, before anything is trained, for an adapter that cannot be emptied."""
        tuner: Any = trainer.tuner
        if not tuner.can_be_emptied:
            raise ValueError(
                f"adapt_sessions: first_if_better needs an adapter that can be emptied, as LoRA and SaRA can; {type(tuner).__name__} has "
                "no state in which it changes nothing. Say adapt_sessions: first, and set `hf-cl train frozen` beside it."
            )

    @torch.no_grad()
    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """In session 0: judge, and empty the adapter where it did not help."""
        if session.id > 0:
            return
        if len(session.class_names) < ENOUGH_CLASSES:
            self._found = {"kept": "trained", "why": f"session 0 has fewer than {ENOUGH_CLASSES} classes: not compared"}
            return
        trained = _hits(trainer, session)  # [n]
        untouched = _hits(trainer, session, "pretrained")
        gain = trained - untouched
        error = float(gain.std() / len(gain) ** 0.5)
        better = float(gain.mean()) > error
        self._found = {
            "kept": "trained" if better else "untouched",
            "why": f"held-back images of session 0, {len(gain)} of them: gain of the trained features against its standard error",
            "trained": float(trained.mean()),
            "untouched": float(untouched.mean()),
            "standard_error": error,
        }
        told = (100 * float(trained.mean()), 100 * float(untouched.mean()), 100 * error)
        if better:
            logger.info("The trained features stay: %.1f %% of held-back images against %.1f %%, standard error %.1f.", *told)
            return
        logger.warning(
            "The adapter is emptied, since what it learned in session 0 did not help the head: %.1f %% of held-back images with it, "
            "%.1f %% without, standard error of the difference %.1f. --adapt_sessions first keeps it all the same.",
            *told,
        )
        tuner: Any = trainer.tuner
        tuner.empty()

    def report(self) -> dict[str, Any]:
        """Which features stay, and the accuracies that said so."""
        return self._found

    def state_dict(self) -> dict[str, Any]:
        return {"found": self._found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._found = dict(state["found"])


def _hits(trainer: Trainer, session: Session, role: str | None = None) -> Tensor:
    """[m] 1 where a copy of the head, fitted to four fifths of the images, names a held-back one rightly."""
    data = trainer.features_of(session.train, role=role)
    held = held_back(data.labels, data.index, trainer.seed, session.id).to(data.labels.device)  # [n]
    head: Any = copy.deepcopy(trainer.head)
    head.end_session(WithoutSome(trainer, head, session, ~held, lambda: ClassStatistics(head.statistics), role), session)
    return (head.eval()(data.features[held]).argmax(1) == data.labels[held]).double().cpu()
