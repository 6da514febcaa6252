"""All sessions of a run with their phases, as they are before the first one begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.contracts import LossTerm, Method, Phase, Scenario, Session


class SessionPlan:
    """What a scenario brings and what a method does with it, asked for once.

    Args:
        method: its `phases` are called for every session.
        scenario: read to its end.
        batch_size: of the run; the sessions are told.
        resumed: whether the run may have a past: what a memory wrote into its folder is then its own.

    Raises ValueError for a phase of fewer than 0 epochs, and what a memory refuses.
    """

    def __init__(self, method: Method, scenario: Scenario, batch_size: int, *, resumed: bool = False) -> None:
        self.method = method
        self.sessions: list[Session] = [replace(session, batch_size=batch_size) for session in scenario]
        if method.memory is not None:
            method.memory.begin_run(self.sessions, resumed=resumed)
            self._count_kept()
        self.phases: list[list[Phase]] = self._planned()
        """Of each session, those that have epochs."""

    def remember(self, state: Mapping[str, Any]) -> None:
        """Give the memory of a resumed run its state; the lengths of sessions that have not come follow from it.

        Raises ValueError naming exemplars whose pictures are gone.
        """
        memory = self.method.memory
        if memory is not None:
            memory.load_state_dict(state)
            self._count_kept()
            self.phases = self._planned()

    def _count_kept(self) -> None:
        """How many images of the memory are shuffled in with those of each session."""
        memory = self.method.memory
        if memory is not None and not memory.replay:
            self.sessions = [replace(session, joined=kept) for session, kept in zip(self.sessions, memory.sizes(), strict=True)]

    def _planned(self) -> list[list[Phase]]:
        planned = [list(self.method.phases(session)) for session in self.sessions]
        for session, phases in zip(self.sessions, planned, strict=True):
            if wrong := [phase for phase in phases if phase.epochs < 0]:
                raise ValueError(f"Phase {wrong[0].name!r} of session {session.id} has {wrong[0].epochs} epochs; 0 leaves it out.")
            if wrong := [phase for phase in phases if phase.updates_per_batch < 1]:
                raise ValueError(f"Phase {wrong[0].name!r} of session {session.id}: updates_per_batch must be at least 1.")
        return [[phase for phase in phases if phase.epochs > 0] for phases in planned]

    def losses(self) -> dict[str, LossTerm]:
        """Every loss of the run once, as `<first session that lists it>.<name>`: also those that rest now have state to be kept."""
        found: dict[int, tuple[str, LossTerm]] = {}
        for number, phases in enumerate(self.phases):
            for term in (term for phase in phases for term in phase.losses):
                found.setdefault(id(term), (f"{number}.{term.name}", term))
        return dict(found.values())

    def loss_parameters(self) -> dict[str, Tensor]:
        """The losses' own parameters, under the names of `losses`."""
        modules = {key: term for key, term in self.losses().items() if isinstance(term, nn.Module)}
        return {f"{key}.{name}": parameter for key, module in modules.items() for name, parameter in module.named_parameters()}

    @torch.no_grad()
    def restore_losses(self, parameters: Mapping[str, Tensor], states: Mapping[str, Mapping[str, object]]) -> None:
        """Put back what a checkpoint has of the losses. Those of sessions that have come since are left as they are."""
        for name, parameter in self.loss_parameters().items():
            if name in parameters:
                parameter.copy_(parameters[name])
        for key, term in self.losses().items():
            if key in states:
                term.load_state_dict(states[key])
