"""A method: what is trained, by which gradient, in which phases, with which optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch.optim import Optimizer

from hf_cl.contracts.data import Session
from hf_cl.contracts.parts import GradientRule, Memory, NamedParameters, Part, Phase

Schedule = Callable[[int, int], Sequence[float]]
"""(epoch of the session, step of the epoch) -> one learning rate per parameter group."""


@dataclass(frozen=True)
class Method:
    """A named composition: what is trained (adapter with its head), by which gradient, in which phases, with which optimizer."""

    name: str
    adapter: Any
    """A PeftConfig. Its `head` dict names the head, which injection builds (`trainer.head`); the trainer fills `class_names`."""
    phases: Callable[[Session], Sequence[Phase]]
    optimizer: Callable[[Session, NamedParameters], tuple[Optimizer, Schedule]]
    """Called once per session; the optimizer goes on over the session's phases. Here and in `phases`, `session.steps_per_epoch()` says how
    many steps an epoch takes, for what is counted in steps."""
    rule: GradientRule
    parts: Sequence[Part] = ()
    memory: Memory | None = None
    """What of earlier sessions is trained on again; None: nothing is kept (exemplar-free)."""
    max_grad_norm: float | None = None
    optimizer_lasts: Literal["session", "run"] = "session"
    """"run": what the optimizer knows of each parameter goes on in the next session, by the parameter's name, with zeros for rows of the
    head that have grown, which equals a head that had all its rows from the beginning. Rates begin anew."""
    title: str = ""
    """The method's name in prose, for the card."""
    citation: str = ""
    """BibTeX of its paper, for the card."""


def is_head(name: str) -> bool:
    """`Phase.trainable` for phases that train the head alone."""
    return name.startswith("head.")


def everything(name: str) -> bool:
    """`Phase.trainable` for phases that train adapter, head and the losses' own parameters."""
    return True
