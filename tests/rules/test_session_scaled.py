"""CPE-CLIP's factor on the gradient of a session."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from hf_cl.contracts import Session
from hf_cl.rules import Plain, SessionScaled, session_scale

FACTORS = json.loads((Path(__file__).parents[1] / "reference" / "cpe_clip" / "reg_factors.json").read_text())


def session(number: int, new: int, seen: int) -> Session:
    names = tuple(str(i) for i in range(seen))
    return Session(number, names, names[seen - new :], train=None, tests=())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("data", ["cifar100", "mini_imagenet", "cub200"])
def test_factors_of_the_official_streams(data):
    counts, wanted = FACTORS[data]["num_classes"], FACTORS[data]["alpha"]
    found = [session_scale(session(t, n, sum(counts[: t + 1]))) for t, n in enumerate(counts)]
    assert found == pytest.approx(wanted, abs=1e-12)


class Remembers(Plain):
    """A rule that changes the gradient itself and has a state."""

    def __init__(self):
        self.calls = []

    def begin_session(self, trainer, session):
        self.calls.append("begin_session")

    def begin_epoch(self, trainer, epoch):
        self.calls.append("begin_epoch")

    def after_step(self, trainer):
        self.calls.append("after_step")

    def end_session(self, trainer, session):
        self.calls.append("end_session")

    def transform(self, named_parameters):
        for _, p in named_parameters:
            if p.grad is not None:
                p.grad.add_(1.0)

    def state_dict(self):
        return {"calls": list(self.calls)}

    def load_state_dict(self, state):
        self.calls = list(state["calls"])


def test_scales_what_the_inner_rule_gives():
    parameter, resting = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    named, rule = [("p", parameter), ("resting", resting)], SessionScaled(Remembers())
    accelerator = Accelerator(cpu=True)
    for number, new, seen, factor in ((0, 4, 4, 1.0), (1, 2, 6, 1 / 3), (2, 2, 8, 0.25)):
        rule.begin_session(None, session(number, new, seen))
        rule.begin_epoch(None, 0)
        parameter.grad = None
        losses = rule.compute([lambda: {"a": 2 * parameter.sum()}] * 2, named, accelerator, torch.nn.Identity())
        assert float(losses["a"]) == 12.0
        rule.transform(named)
        torch.testing.assert_close(parameter.grad, torch.full((3,), 5.0 * factor))  # two micro-batches, plus the inner rule's 1
        assert resting.grad is None
        rule.after_step(None)
        rule.end_session(None, None)
    state = rule.state_dict()
    assert state["calls"] == ["begin_session", "begin_epoch", "after_step", "end_session"] * 3
    again = SessionScaled(Remembers())
    again.load_state_dict(state)
    assert again.inner.calls == state["calls"]
