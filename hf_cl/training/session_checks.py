"""What is refused before a session trains, and before any of a run's does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from hf_cl.contracts import Head, LossTerm, NamedParameters, Part, Phase, Session
from hf_cl.hints import nearest
from hf_cl.settings import TrainingSettings
from hf_cl.training.needs import OF_IMAGES, PROVIDED, candidates_of

logger = logging.getLogger(__name__)


def check_session(
    session: Session,
    phases: Sequence[Phase],
    settings: TrainingSettings,
    world: int,
    roles: Collection[str] = (),
    names_unseen: bool = False,
    without_classes: Collection[int] = (),
    head_reads: Collection[str] = (),
    of_head: Collection[str] = (),
) -> None:
    """Raise ValueError for phases and tests that this loop cannot run on this session.

    Args:
        session, phases, settings: what would run.
        world: number of processes.
        roles: those of the adapter, and its extras.
        names_unseen: whether the head can name classes that no session teaches.
        without_classes: the sessions that bring no new class; their tests may be empty.
        head_reads: facts of the images that the head reads beside features.
        of_head: extras of the head, which a features phase has too.
    """
    _check_tests(session, names_unseen)
    if len(session.train) == 0:
        raise ValueError(f"Session {session.id} has no training images.")
    _check_classes(session)
    empty = [test.name for number, test in enumerate(session.tests) if len(test.data) == 0 and number not in without_classes]
    if empty:
        raise ValueError(f"Session {session.id} has tests without images: {', '.join(empty)}.")
    for size in {phase.batch_size or settings.batch_size for phase in phases}:
        if size % (world * settings.gradient_accumulation_steps):
            raise ValueError(
                f"batch_size {size} is global; it must be a multiple of {world} processes x "
                f"{settings.gradient_accumulation_steps} micro-batches."
            )
    if session.exposed is not None:
        _check_ordered(session, phases)
    _check_images(phases, head_reads)
    for phase in phases:
        _check_phase(phase, session, settings, roles, of_head)


def _check_phase(phase: Phase, session: Session, settings: TrainingSettings, roles: Collection[str], of_head: Collection[str]) -> None:
    """Losses with names of their own, which find what they need."""
    names = [term.name for term in phase.losses]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"Phase {phase.name!r} needs loss terms with different names, got {names}.")
    if phase.inputs == "features" and settings.gradient_accumulation_steps > 1:
        raise ValueError(f"Phase {phase.name!r} runs on features; gradient_accumulation_steps must be 1 there.")
    for term in phase.losses:
        _check_known(term, PROVIDED.union(roles, of_head))
        if phase.inputs == "features" and term.needs & OF_IMAGES.union(roles):
            raise ValueError(f"Loss {term.name!r} needs images; phase {phase.name!r} runs on features.")
        if term.needs & {"own_classes", "own_images"} and min(session.train.labels) < session.own.start:
            raise ValueError(
                f"Loss {term.name!r} is over the session's own classes, and session {session.id} has images of "
                f"{session.class_names[min(session.train.labels)]!r}, which came before it: give it `classes: seen`, or another loss."
            )
        if "previous" in term.needs and session.id == 0:
            raise ValueError(f"Loss {term.name!r} needs the previous session's model; session 0 has none. Leave it out there.")


def _check_images(phases: Sequence[Phase], head_reads: Collection[str]) -> None:
    """A head that reads facts of the images has none in a phase on features."""
    for phase in phases:
        if head_reads and phase.inputs == "features":
            raise ValueError(
                f"The head reads {', '.join(sorted(head_reads))} of each image, which an adapter hands out in a forward, and phase "
                f"{phase.name!r} runs on features. Take a linear head for it."
            )


def check_new_classes(session: Session, parts: Collection[Part | Head]) -> None:
    """Raise ValueError, for a session without a new class, where something of the run cannot learn more of classes that it knows."""
    reasons = [f"{type(part).__name__}: {part.new_classes_only}" for part in parts if part.new_classes_only]
    if reasons and not session.new_class_names:
        raise ValueError(
            f"Session {session.id} brings images of known classes and no new class, and not everything can learn them. {reasons[0]}."
        )


def _check_ordered(session: Session, phases: Sequence[Phase]) -> None:
    """An ordered session is one pass over its images."""
    said = f"Session {session.id} is part of an online stream, each image of which is trained on once"
    if len(phases) > 1:
        raise ValueError(
            f"{said}, and the method has {len(phases)} phases ({', '.join(phase.name for phase in phases)}); it must have one."
        )
    for phase in phases:
        if phase.epochs != 1:
            raise ValueError(f"{said}, and phase {phase.name!r} has {phase.epochs} epochs. Say --epochs 1.")
        if phase.inputs == "features" and phase.refresh == "epoch":
            raise ValueError(f"{said}, and phase {phase.name!r} goes over features of all of them first.")


def warn_of_few_classes(session: Session, phases: Sequence[Phase]) -> None:
    """Say that a session without a new class trains on images of some of the classes alone, under a loss in which all compete."""
    taught, known = len(set(np.asarray(session.train.labels).tolist())), len(session.class_names)
    if phases and not session.new_class_names and taught < known:
        logger.warning(
            "Session %d brings images of %d of the %d known classes, and a loss in which all compete pulls towards those. Heads that are "
            "fitted, with `adapt_sessions: first`, only add them to what they know.",
            *(session.id, taught, known),
        )


def _check_tests(session: Session, names_unseen: bool) -> None:
    for test in session.tests:
        if test.own and (lacking := {*test.data.labels} - {*test.own}):
            raise ValueError(f"The test {test.name} has images of the class at position {min(lacking)}, which is none of its own classes.")
    strange = {id(candidates) for candidates in candidates_of(session) if max(candidates) >= len(session.class_names)}
    unseen = [test.name for test in session.tests if id(test.candidates) in strange]
    if unseen and not names_unseen:
        raise ValueError(
            f"The tests {', '.join(unseen)} hold classes that are never taught. Only a text head can name them: "
            "use a CLIP-like base and head type 'text', as the recipes cpe_clip and glad do."
        )


def _check_classes(session: Session) -> None:
    """Of a session that is to be trained: those of one that has ended may be gone by now."""
    names, first = session.class_names, len(session.class_names) - len(session.new_class_names)
    if absent := sorted(set(range(first, len(names))) - set(np.asarray(session.train.labels).tolist())):
        raise ValueError(
            f"Session {session.id} brings the class {names[absent[0]]!r} and no training image of it"
            f"{f', nor of {len(absent) - 1} more' if len(absent) > 1 else ''}; leave such classes out, or give them images."
        )


def _check_known(term: LossTerm, provided: Collection[str]) -> None:
    unknown = sorted(term.needs - set(provided))
    if unknown:
        raise ValueError(
            f"Loss {term.name!r} needs {unknown}, which this loop does not provide.{nearest(unknown[0], provided)} "
            f"It provides {', '.join(sorted(provided))}."
        )


def check_room(head: Head, last: Session) -> None:
    """Raise ValueError where a head whose size is settled has no room for all the classes that will come."""
    if head.most_classes is not None and len(last.class_names) > head.most_classes:
        raise ValueError(
            f"The head has room for {head.most_classes} classes and {len(last.class_names)} will come; it cannot be extended later, so "
            f"give it room for all of them, such as num_classes_total: {len(last.class_names)}."
        )


def check_vectors(head: Head, marks: Sequence[str]) -> None:
    """Raise ValueError for marks beside a head that reads maps of tokens."""
    if head.reads == "tokens" and set(marks) & {"means", "gaussian"}:
        raise ValueError(
            "The marks means and gaussian are fitted to the features of a run, and one whose head reads patch tokens has none: leave "
            "marks out, and run nearest_class_mean and frozen beside it."
        )


def check_optimizer(made: Any, named: NamedParameters, phases: Sequence[Phase]) -> None:
    """Raise ValueError for what `Method.optimizer` must not return, and warn of parameters that would train and are in no group.

    Args:
        made: what it returned: (optimizer, schedule).
        named: the parameters it was given.
        phases: of the session.
    """
    if not (isinstance(made, tuple) and len(made) == 2 and callable(made[1])):
        raise ValueError("Method.optimizer must return two things: the optimizer and its schedule, (epoch, step) -> one rate per group.")
    optimizer, schedule = made
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held - {id(parameter) for _, parameter in named}:
        raise ValueError(
            "The optimizer holds parameters that it was not given in this session, such as those of the head before it grew: make it anew "
            "from named_parameters each time."
        )
    groups = len(optimizer.param_groups)
    if phases and (rates := len(schedule(0, 0))) != groups:  # a session without epochs has no schedule
        raise ValueError(f"The schedule gives {rates} rates, and the optimizer has {groups} parameter groups; one rate per group.")
    left = [name for name, parameter in named if id(parameter) not in held and any(phase.trainable(name) for phase in phases)]
    if left:
        logger.warning("%d parameters are to train and are in no group of the optimizer, so they rest: %s, ...", len(left), left[0])
