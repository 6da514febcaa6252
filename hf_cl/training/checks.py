"""What is refused before a session trains."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from accelerate.utils import parse_flag_from_env
from torch import nn

from hf_cl._peft import BaseTunerLayer, ModulesToSaveWrapper
from hf_cl.contracts import Head, LossTerm, Method, NamedParameters, Part, Phase, Probe, Session
from hf_cl.hints import nearest
from hf_cl.settings import TrainingSettings
from hf_cl.training.session_plan import SessionPlan

logger = logging.getLogger(__name__)

PROVIDED = frozenset(
    {"index", "two_views", "frozen_view", "pretrained", "previous", "previous_if_any"}
    | {"all_classes", "own_classes", "own_images", "memory"}
)
"""What the loop can hand to a loss term that says it needs it, beside the roles of the adapter. "previous" exists from session 1 on;
"previous_if_any" is it for a loss that is there in session 0 too, and does not ask for it then.

"two_views": two augmented views, both through the model. "frozen_view": a second augmented view for `frozen` alone, which costs the model
no forward. "memory": images of earlier sessions among those of a batch, from session 1 on."""

_OF_IMAGES = frozenset({"two_views", "frozen_view", "pretrained", "previous", "previous_if_any"})


def check_method(method: Method) -> None:
    """Raise ValueError where an adapter's config records another gradient rule than the one that trains it."""
    method.adapter.check_rule(method.rule)


def check_unused(backbone: nn.Module) -> None:
    """Raise ValueError for a backbone with an adapter inside: another run's, which would be trained over and saved as the base's."""
    inside = next((module for module in backbone.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)), None)
    if inside is not None:
        raise ValueError(
            f"The backbone has an adapter inside already ({type(inside).__name__}): it was used for another run. Load it anew, or take the "
            "adapter out by `model.unload()` of its PeftModel, which also leaves that run's head at the classifier's place."
        )


_SHARDING = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED", "Megatron-LM": "ACCELERATE_USE_MEGATRON_LM"}
"""What shards a model over processes -> the variable by which `accelerate launch` asks for it."""


def check_strategy() -> None:
    """Raise ValueError where accelerate is told to shard the model.

    The loop freezes, grows, snapshots and saves the adapter's parameters by name between phases; a sharded model has others in their place.
    """
    for strategy, variable in _SHARDING.items():
        if parse_flag_from_env(variable):
            raise ValueError(
                f"accelerate is configured for {strategy}, which hf_cl does not train with: it shards the parameters that a session grows "
                "and saves. Launch with plain data parallelism instead (recipes/accelerate/multi_gpu.yaml)."
            )


def check_parts(plan: SessionPlan, probes: Sequence[Probe]) -> None:
    """Raise ValueError for sessions that do not follow each other, and for losses and probes that are none, or have no name or the name of
    another.
    """
    _check_sessions(plan.sessions)
    memory = plan.method.memory
    if memory is not None and not memory.replay and any(session.exposed is not None for session in plan.sessions):
        raise ValueError("An online stream comes in its own order, in which no exemplars can be shuffled: draw them beside it, replay: 16.")
    for number, of_session in enumerate(plan.phases):
        for phase in of_session:
            if isinstance(phase.losses, LossTerm):
                raise ValueError(f"Phase {phase.name!r}: losses must be a list; got the loss {type(phase.losses).__name__} itself.")
            _check_kind(phase.losses, LossTerm, f"Phase {phase.name!r} of session {number}")
        terms = {id(term): term.name for phase in of_session for term in phase.losses}
        if twice := sorted({name for name in terms.values() if [*terms.values()].count(name) > 1}):
            raise ValueError(
                f"Session {number} has two losses of the name {twice[0]!r}; give them names of their own, or list one object twice."
            )
    _check_memory(plan)
    _check_kind(probes, Probe, "The trainer")
    names = [probe.name for probe in probes]
    if len(set(names)) != len(names):
        raise ValueError(f"Probes need different names, got {names}.")


def _check_memory(plan: SessionPlan) -> None:
    """Losses that have no label for an image of another session, and those that read a memory which is not there."""
    memory = plan.method.memory
    for number, phases in enumerate(plan.phases):
        images = [phase.name for phase in phases if phase.inputs == "images"]
        if memory is not None and memory.holds == "features" and number > 0 and images:
            raise ValueError(
                f"The memory keeps features and no image, so it is for sessions that train the head on features alone, and phase "
                f"{images[0]!r} of session {number} trains on images: take a memory of exemplars, or say adapt_sessions: first."
            )
        for term in (term for phase in phases for term in phase.losses):
            if memory is not None and memory.holds == "features" and "memory" in term.needs:
                raise ValueError(f"Loss {term.name!r} compares with images of earlier sessions, and the memory keeps features alone.")
            if plan.method.memory is None and "memory" in term.needs:
                raise ValueError(
                    f"Loss {term.name!r} compares with images of earlier sessions, and the run keeps none; add a memory, such as "
                    "--memory '{type: exemplars, per_class: 20}'."
                )
            if plan.method.memory is not None and number > 0 and "own_classes" in term.needs:
                raise ValueError(
                    f"Loss {term.name!r} lets a session's own classes compete alone, and the memory brings images of others, which have no "
                    "label among them. Let all compete: loss_scope: seen, in a loss's own settings classes: seen."
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


def _check_sessions(sessions: Sequence[Session]) -> None:
    """Ids count from 0, class names grow at their end, and no image is of a class that has not come."""
    if not sessions:
        raise ValueError("The scenario has no sessions.")
    seen: tuple[str, ...] = ()
    for number, session in enumerate(sessions):
        names, new = tuple(session.class_names), tuple(session.new_class_names)
        if session.id != number:
            raise ValueError(f"Sessions have the ids 0, 1, 2, ...; the one at place {number} has {session.id}.")
        if names != (*seen, *new):
            raise ValueError(
                f"Session {number}: class_names must be those of the sessions before it, then its new_class_names, in this order."
            )
        if not new and number == 0:
            raise ValueError("Session 0 brings no class; a run needs one to begin with.")
        labels = np.asarray(session.train.labels)
        if labels.size and not 0 <= labels.min() <= labels.max() < len(names):
            raise ValueError(
                f"Session {number} trains on labels from {labels.min()} to {labels.max()}; with {len(names)} classes so far they go from 0 "
                f"to {len(names) - 1}."
            )
        seen = names


def _check_classes(session: Session) -> None:
    """Of a session that is to be trained: those of one that has ended may be gone by now."""
    names, first = session.class_names, len(session.class_names) - len(session.new_class_names)
    if absent := sorted(set(range(first, len(names))) - set(np.asarray(session.train.labels).tolist())):
        raise ValueError(
            f"Session {session.id} brings the class {names[absent[0]]!r} and no training image of it"
            f"{f', nor of {len(absent) - 1} more' if len(absent) > 1 else ''}; leave such classes out, or give them images."
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


def _check_kind(parts: Sequence[Any], kind: type[LossTerm | Probe], where: str) -> None:
    for part in parts:
        if not isinstance(part, kind):
            found = f"the class {part.__name__}, not an object of it" if isinstance(part, type) else f"a {type(part).__name__}"
            raise ValueError(f"{where} needs subclasses of hf_cl.contracts.{kind.__name__}; got {found}.")
        if not isinstance(part.name, str) or not part.name:
            raise ValueError(f"{where}: {type(part).__name__} has no name; give the class one, such as name = 'mine'.")
        if isinstance(part, LossTerm) and not isinstance(part.needs, frozenset | set):
            raise ValueError(f"Loss {part.name!r}: needs must be a set of words, got {part.needs!r}.")


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
        names = [term.name for term in phase.losses]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"Phase {phase.name!r} needs loss terms with different names, got {names}.")
        if phase.inputs == "features" and settings.gradient_accumulation_steps > 1:
            raise ValueError(f"Phase {phase.name!r} runs on features; gradient_accumulation_steps must be 1 there.")
        for term in phase.losses:
            _check_known(term, PROVIDED.union(roles, of_head))
            if phase.inputs == "features" and term.needs & _OF_IMAGES.union(roles):
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


def _check_known(term: LossTerm, provided: Collection[str]) -> None:
    unknown = sorted(term.needs - set(provided))
    if unknown:
        raise ValueError(
            f"Loss {term.name!r} needs {unknown}, which this loop does not provide.{nearest(unknown[0], provided)} "
            f"It provides {', '.join(sorted(provided))}."
        )


def has_own_candidates(session: Session) -> bool:
    """Whether a test lets other classes compete than those seen so far."""
    seen = tuple(range(len(session.class_names)))
    return any(tuple(candidates) != seen for candidates in _candidates(session))


def _candidates(session: Session) -> list[tuple[int, ...]]:
    """Of all tests; one that many tests share is looked at once."""
    return list({id(test.candidates): test.candidates for test in session.tests}.values())


def _check_tests(session: Session, names_unseen: bool) -> None:
    for test in session.tests:
        if test.own and (lacking := {*test.data.labels} - {*test.own}):
            raise ValueError(f"The test {test.name} has images of the class at position {min(lacking)}, which is none of its own classes.")
    strange = {id(candidates) for candidates in _candidates(session) if max(candidates) >= len(session.class_names)}
    unseen = [test.name for test in session.tests if id(test.candidates) in strange]
    if unseen and not names_unseen:
        raise ValueError(
            f"The tests {', '.join(unseen)} hold classes that are never taught. Only a text head can name them: "
            "use a CLIP-like base and head type 'text', as the recipes cpe_clip and glad do."
        )


def num_views(phase: Phase) -> int:
    """How many augmented views of an image the phase's losses read, under whatever state of the model."""
    return 2 if any(term.needs & {"two_views", "frozen_view"} for term in phase.losses) else 1


def num_model_views(phase: Phase) -> int:
    """How many of them go through the model itself, with gradients; the others are for frozen states."""
    return 2 if any("two_views" in term.needs for term in phase.losses) else 1
