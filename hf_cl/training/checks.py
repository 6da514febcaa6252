"""What is refused before a session trains."""

from __future__ import annotations

from collections.abc import Sequence

from hf_cl.contracts import Phase, Session
from hf_cl.training.settings import TrainingSettings

PROVIDED = frozenset({"index", "two_views", "pretrained", "previous"})
"""What the loop can hand to a loss term that says it needs it. "previous" exists from session 1 on."""


def check_session(session: Session, phases: Sequence[Phase], settings: TrainingSettings, world: int) -> None:
    """Raise ValueError for phases that this loop cannot run on this session."""
    if len(session.train) == 0:
        raise ValueError(f"Session {session.id} has no training images.")
    empty = [test.name for test in session.tests if len(test.data) == 0]
    if empty:
        raise ValueError(f"Session {session.id} has tests without images: {', '.join(empty)}.")
    if settings.batch_size % (world * settings.gradient_accumulation_steps):
        raise ValueError(
            f"batch_size {settings.batch_size} is global; it must be a multiple of {world} processes x "
            f"{settings.gradient_accumulation_steps} micro-batches."
        )
    for phase in phases:
        names = [term.name for term in phase.losses]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Phase {phase.name!r} needs loss terms with different names, got {names}.")
        if phase.inputs == "features" and settings.gradient_accumulation_steps > 1:
            raise ValueError(f"Phase {phase.name!r} runs on features; gradient_accumulation_steps must be 1 there.")
        for term in phase.losses:
            unknown = sorted(term.needs - PROVIDED)
            if unknown:
                raise ValueError(f"Loss {term.name!r} needs {unknown}, which this loop does not provide; it provides {sorted(PROVIDED)}.")
            if phase.inputs == "features" and term.needs & {"two_views", "pretrained", "previous"}:
                raise ValueError(f"Loss {term.name!r} needs images; phase {phase.name!r} runs on features.")
            if "previous" in term.needs and session.id == 0:
                raise ValueError(f"Loss {term.name!r} needs the previous session's model; session 0 has none. Leave it out there.")


def num_views(phase: Phase) -> int:
    """How many augmented views of an image the phase's losses read."""
    return 2 if any("two_views" in term.needs for term in phase.losses) else 1
