"""What phases and tests ask of the loop."""

from __future__ import annotations

from hf_cl.contracts import Phase, Session

PROVIDED = frozenset(
    {"index", "two_views", "frozen_view", "pretrained", "previous", "previous_if_any"}
    | {"all_classes", "own_classes", "own_images", "memory"}
)
"""What the loop can hand to a loss term that says it needs it, beside the roles of the adapter. "previous" exists from session 1 on;
"previous_if_any" is it for a loss that is there in session 0 too, and does not ask for it then.

"two_views": two augmented views, both through the model. "frozen_view": a second augmented view for `frozen` alone, which costs the model
no forward. "memory": images of earlier sessions among those of a batch, from session 1 on."""

OF_IMAGES = frozenset({"two_views", "frozen_view", "pretrained", "previous", "previous_if_any"})
"""Of these, what a phase on features has not."""


def num_views(phase: Phase) -> int:
    """How many augmented views of an image the phase's losses read, under whatever state of the model."""
    return 2 if any(term.needs & {"two_views", "frozen_view"} for term in phase.losses) else 1


def num_model_views(phase: Phase) -> int:
    """How many of them go through the model itself, with gradients; the others are for frozen states."""
    return 2 if any("two_views" in term.needs for term in phase.losses) else 1


def has_own_candidates(session: Session) -> bool:
    """Whether a test lets other classes compete than those seen so far."""
    seen = tuple(range(len(session.class_names)))
    return any(tuple(candidates) != seen for candidates in candidates_of(session))


def candidates_of(session: Session) -> list[tuple[int, ...]]:
    """Of all tests; one that many tests share is looked at once."""
    return list({id(test.candidates): test.candidates for test in session.tests}.values())
