"""A head that fits itself to features of the untouched backbone: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, NamedParameters, Schedule, Session
from hf_cl.heads import HEADS, check_head, fits_itself
from hf_cl.methods.schedules import constant
from hf_cl.rules import Plain
from hf_cl.settings import RunSettings


def frozen(head: Mapping[str, Any] | None = None) -> Method:
    """A head that fits itself at the end of each session, on the untouched backbone. Nothing is trained.

    Args:
        head: the head's spec; None: the Gaussian head.

    Raises ValueError for an unknown head, and for one that has to be trained.
    """
    spec = dict(head or {"type": "gaussian"})
    check_head(spec)
    fitted = [name for name in HEADS if name != "nested_dropout" and fits_itself({"type": name})]  # whose map has to be trained
    if spec["type"] not in fitted:
        raise ValueError(
            f"frozen trains nothing, so its head must fit itself when a session ends, and a {spec['type']} head does not; "
            f"those that do are {', '.join(fitted)}. `hf-cl train linear_probe` trains a head on frozen features."
        )
    return Method(
        name="frozen",
        title=f"{spec['type']} head on the frozen backbone",
        adapter=OnePromptConfig(layer_tokens={}, head=spec),
        phases=lambda session: [],
        optimizer=_never_asked_to_step,
        rule=Plain(),
    )


def _never_asked_to_step(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
    return torch.optim.SGD([p for _, p in named_parameters], lr=0.0), constant(0.0)


@dataclass
class FrozenSettings(RunSettings):
    """Settings of `frozen`."""

    head: dict[str, Any] = field(default_factory=lambda: {"type": "gaussian"})
    """The head and its settings; one that fits itself when a session ends."""

    def method(self) -> Method:
        return frozen(self.head)
