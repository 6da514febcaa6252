"""Terms that stay near forget less: two sessions of four Gaussian classes (Smith et al., arXiv 2203.17269). Run by `make torture`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from losses.fakes import session_of
from losses.mechanism import context, loop
from torch import nn

from hf_cl.contracts import Outputs
from hf_cl.losses import EWC, BinaryCrossEntropy, FeatureDistillation, L2Anchor, PredictionDistillation

pytestmark = pytest.mark.slow

OLD, NEW, SHOTS, BATCH = 4, 4, 60, 32


class Net(nn.Module):
    """`feat` stands for the adapter, `last` for the head."""

    def __init__(self):
        super().__init__()
        self.feat = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.last = nn.Linear(32, OLD + NEW)

    def outputs(self, x):
        features = self.feat(x)
        return Outputs(features, self.last(features), features)


class Outcome(NamedTuple):
    drop: float
    """Task-aware accuracy of session 0 before session 1, less that after it."""
    new: float
    """Task-aware accuracy of session 1."""


def shuffled(anchors, seed):
    """The same numbers at other places of each tensor."""
    generator = torch.Generator().manual_seed(seed)
    return {name: t.flatten()[torch.randperm(t.numel(), generator=generator)].view_as(t) for name, t in anchors.items()}


def two_sessions(seed, make=None, weight=1.0, shuffle=False) -> Outcome:
    """Train session 0, then session 1 beside what `make` gives; Adam at 5e-3, 40 epochs, cross-entropy on a session's own columns."""
    torch.manual_seed(seed)
    means = torch.randn(OLD + NEW, 12)
    labels = torch.arange(OLD + NEW).repeat_interleave(SHOTS)
    x, test = (means[labels] + 0.7 * torch.randn(len(labels), 12) for _ in range(2))
    net, term = Net(), make() if make else None
    trainer = SimpleNamespace(model=net, tuner=SimpleNamespace(model=net), outputs_of=net.outputs, **vars(loop()))
    trainer.named_parameters = [(name.replace("last.", "head."), p) for name, p in net.named_parameters()]
    accuracies = {}
    for number, session in enumerate((session_of(OLD, OLD), session_of(OLD + NEW, NEW))):
        own = (labels // OLD == number).nonzero()[:, 0]
        order = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))]
        trainer.batches_of = lambda dataset, order=order: ({"pixel_values": x[r], "labels": labels[r]} for r in order.split(BATCH))
        previous = Net()
        previous.load_state_dict(net.state_dict())
        if term is not None:
            term.begin_session(trainer, session)
            if shuffle and number == 1:
                term._anchors = shuffled(term._anchors, seed)
        first = max(term.first_session, "previous" in term.needs) if term is not None else 2
        optimizer, main = torch.optim.Adam(net.parameters(), lr=5e-3), BinaryCrossEntropy(classes="new")
        for _ in range(40):
            for rows in own[torch.randperm(len(own))].split(BATCH):
                out = net.outputs(x[rows])

                def frozen(role, view=-1, previous=previous, rows=rows):
                    with torch.no_grad():
                        return previous.outputs(x[rows])

                logits = out.logits[:, : OLD + NEW * number]
                ctx = context(logits, labels[rows], rows, session, features=out.features, frozen=frozen)
                loss = main(ctx)
                if term is not None and number >= first:
                    loss = loss + weight * term(ctx)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        if term is not None:
            term.end_session(trainer, session)
        for earlier in range(number + 1):
            mine = labels // OLD == earlier
            with torch.no_grad():
                chosen = net.outputs(test[mine]).logits[:, OLD * earlier : OLD * (earlier + 1)].argmax(1)
            accuracies[number, earlier] = (chosen + OLD * earlier == labels[mine]).float().mean().item()
    return Outcome(accuracies[0, 0] - accuracies[1, 0], accuracies[1, 1])


def l2():
    return L2Anchor(space="params")


@pytest.mark.parametrize("seed", range(5))
def test_terms_that_stay_near_forget_less(seed):
    none = two_sessions(seed)
    found = {
        "l2 .01": two_sessions(seed, l2, 0.01),
        "l2 .1": two_sessions(seed, l2, 0.1),
        "l2 1": two_sessions(seed, l2, 1.0),
        "ewc": two_sessions(seed, EWC, 100.0),
        "features": two_sessions(seed, FeatureDistillation, 5.0),
        "predictions": two_sessions(seed, PredictionDistillation, 1.0),
    }
    assert none.drop > 0.05, none
    for name, outcome in found.items():
        assert outcome.drop < none.drop - 0.02, (name, outcome, none)
        assert outcome.new > none.new - 0.06, (name, outcome, none)
    assert found["l2 1"].drop <= found["l2 .1"].drop + 0.01, found
    assert found["l2 .1"].drop <= found["l2 .01"].drop + 0.01, found


@pytest.mark.parametrize("seed", range(5))
def test_without_a_weight_it_is_not_there_and_a_wrong_anchor_is_worse_than_none(seed):
    none = two_sessions(seed)
    assert two_sessions(seed, l2, 0.0) == none
    assert two_sessions(seed, l2, 0.1, shuffle=True).drop > none.drop
