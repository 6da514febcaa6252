"""No step waits for the device: losses and checks stay there until they are read."""

from __future__ import annotations

import pytest
import torch
from speed_runs import METHODS, build, record, record_of

from hf_cl.contracts import LossTerm, Method, Phase, everything

STEPS = 3
"""Of a session."""


@pytest.mark.parametrize("kind", METHODS)
def test_a_step_waits_for_nothing(kind):
    """CPE_CLIP looks once whether a session's texts leave room for prompts, SARA whether positions it has not seen are valid."""
    looks_once = kind in ("CPE_CLIP", "SARA")
    steps = [step.waits for number, step in enumerate(record_of(kind).steps) if number % STEPS or not looks_once]
    assert steps == [[]] * len(steps) and steps


class Careless(LossTerm):
    """What the counter is there for."""

    name = "careless"

    def __init__(self, how):
        self.how = how

    def __call__(self, ctx):
        return ctx.logits.square().mean() * self.how(ctx.logits)


CARELESS = {
    "__bool__": lambda logits: 1.0 if logits.sum() > -1e9 else 0.0,
    "item": lambda logits: logits.mean().item() * 0 + 1,
    "__float__": lambda logits: float(logits.detach().mean()) * 0 + 1,
    "tolist": lambda logits: len(logits.detach().flatten().tolist()) * 0 + 1,
    "aten.index.Tensor": lambda logits: logits[logits > -1e9].mean(),
    "aten.nonzero.default": lambda logits: (logits > 0).nonzero().float().mean() * 0 + 1,
    "numpy": lambda logits: torch.from_numpy(logits.detach().cpu().numpy()).mean() * 0 + 1,
}


def test_the_counter_sees_a_careless_loss(tmp_path):
    """One phase per way of waiting."""
    trainer = build("ONE_PROMPT", tmp_path, sessions=1)
    phases = [Phase(name, 1, [Careless(how)], everything) for name, how in CARELESS.items()]
    trainer.method = Method(**{**vars(trainer.method), "phases": lambda session: phases})
    trainer.method = Method(**{**vars(trainer.method), "optimizer": _constant(trainer.method.optimizer)})
    steps = record(trainer).steps
    assert len(steps) == STEPS * len(CARELESS)
    for number, name in enumerate(CARELESS):
        assert all(name in step.waits for step in steps[STEPS * number : STEPS * (number + 1)]), name


def _constant(optimizer):
    """The method's schedule ends with its own epochs."""
    return lambda session, named: (optimizer(session, named)[0], lambda epoch, step: [1e-3])
