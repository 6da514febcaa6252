"""In which sessions a method's adapter trains: in all, as published, or in session 0 alone.

After session 0 the features stand still then: every image goes through the backbone once, closed-form heads forget nothing, and nothing
that was kept of earlier classes goes stale. Panos et al., "First Session Adaptation: A Strong Replay-Free Baseline for Class-Incremental
Learning", ICCV 2023; with class means it is APER's (Zhou et al., IJCV 2024).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_cl.contracts import Method, Phase, Session, is_head
from hf_cl.heads import fits_itself
from hf_cl.methods.with_memory import TrainedSettings
from hf_cl.parts import BetterFeatures, DriftMap

AdaptSessions = Literal["first", "first_if_better", "all"]
WITHOUT_IMAGES = frozenset({"index", "all_classes", "own_classes"})
"""What a loss may need in a phase on features."""


@dataclass
class AdapterSettings(TrainedSettings):
    """Settings of every method that trains an adapter."""

    adapt_sessions: AdaptSessions = "all"
    """Sessions that train the adapter: `all`, or the `first`, after which the features stand still and the head alone goes on;
    `first_if_better`: after a session 0 of 30 classes or more it stays only if it helps the head on held-back images."""

    def completed(self, method: Method) -> Method:
        """The method in the sessions that train its adapter, with its memory.

        Raises ValueError for a memory that nothing would train on, and what `adapt_sessions` and `remembering` refuse.
        """
        if self.memory is not None and self.adapt_sessions != "all" and is_fitted(method.adapter.head):
            raise ValueError(
                f"memory: after session 0 nothing trains under adapt_sessions: {self.adapt_sessions} and a head that is fitted "
                f"({method.adapter.head['type']}), so no kept image would be trained on. Leave memory out, or say adapt_sessions: all."
            )
        return self.remembering(adapt_sessions(method, self.adapt_sessions))


def adapt_sessions(method: Method, which: AdaptSessions) -> Method:
    """The method with its adapter trained in all sessions, or in the first; with "first_if_better" the part `BetterFeatures` judges it.

    With "first", a head that is fitted (prototype, gaussian, ridge, kernel_ridge, logistic, fetril) needs no phase after session 0; one
    that trains (linear, cosine) goes on in the method's own phases, on features that are computed once per session where the losses need no
    images. A drift map is left out: nothing drifts.

    Raises ValueError for another word, for "first" under a text head, where nothing would be left to train, and for "first_if_better"
    under a head that is not fitted, which could not be judged without training it.
    """
    if which not in ("first", "first_if_better", "all"):
        raise ValueError(f"adapt_sessions must be first, first_if_better or all, got {which!r}.")
    if which == "all":
        return method
    if method.adapter.has_text_head:
        raise ValueError(
            "adapt_sessions: first needs a head that is fitted (gaussian, ridge, prototype, ...) or trains alone (linear, cosine), and "
            "under a text head the class names are the classifier: nothing would learn after session 0. Say adapt_sessions: all."
        )
    fitted = is_fitted(method.adapter.head)
    if which == "first_if_better" and not fitted:
        raise ValueError(
            "adapt_sessions: first_if_better compares fits of the head on trained and on untouched features, and a "
            f"{(method.adapter.head or {}).get('type')} head is trained. Say --head '{{type: gaussian}}', or adapt_sessions: first."
        )

    def phases(session: Session) -> Sequence[Phase]:
        planned = method.phases(session)
        if session.id == 0:
            return planned
        return [] if fitted else [_of_the_head(phase) for phase in planned if phase.trainable("head.weight")]

    parts = [part for part in method.parts if not isinstance(part, DriftMap)]
    if which == "first_if_better":
        parts = [BetterFeatures(), *parts]
    return replace(method, phases=phases, parts=parts, title=f"{method.title or method.name}, adapter of session 0")


def is_fitted(head: Mapping[str, Any] | None) -> bool:
    """Whether the head of a spec fits itself at the end of a session."""
    return fits_itself(head)


def _of_the_head(phase: Phase) -> Phase:
    """The phase with all but the head at rest."""

    def trainable(name: str) -> bool:
        return is_head(name) and phase.trainable(name)

    if any(term.needs - WITHOUT_IMAGES for term in phase.losses):
        return replace(phase, trainable=trainable)
    return replace(phase, trainable=trainable, inputs="features", refresh="phase" if phase.inputs == "images" else phase.refresh)
