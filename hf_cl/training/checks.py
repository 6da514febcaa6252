"""What is refused before a run begins: methods, backbones, launches, plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from accelerate.utils import parse_flag_from_env
from torch import nn

from hf_cl._peft import BaseTunerLayer, ModulesToSaveWrapper
from hf_cl.contracts import LossTerm, Method, Probe, Session
from hf_cl.training.session_plan import SessionPlan


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


def _check_kind(parts: Sequence[Any], kind: type[LossTerm | Probe], where: str) -> None:
    for part in parts:
        if not isinstance(part, kind):
            found = f"the class {part.__name__}, not an object of it" if isinstance(part, type) else f"a {type(part).__name__}"
            raise ValueError(f"{where} needs subclasses of hf_cl.contracts.{kind.__name__}; got {found}.")
        if not isinstance(part.name, str) or not part.name:
            raise ValueError(f"{where}: {type(part).__name__} has no name; give the class one, such as name = 'mine'.")
        if isinstance(part, LossTerm) and not isinstance(part.needs, frozenset | set):
            raise ValueError(f"Loss {part.name!r}: needs must be a set of words, got {part.needs!r}.")
