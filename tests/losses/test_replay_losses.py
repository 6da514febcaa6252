"""Losses that weigh new and replayed images apart, against their equations in float64, however a step is cut."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from losses.fakes import Labels, context_of, session_of
from torch.nn import functional as F

from hf_cl.losses import BalancedSoftmax, ExperienceReplay, LogitReplay, VirtualOutliers
from hf_cl.memory import Exemplars
from hf_cl.memory.joined import Joined

SESSION = session_of(5, 2)
LOGITS = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
LABELS = torch.tensor([3, 4, 0, 3, 2, 1, 4])
REPLAYED = torch.tensor([False, False, True, False, True, True, False])
EXEMPLAR = torch.tensor([-1, -1, 4, -1, 0, 2, -1])


def context(rows=slice(None), *, replayed=True):
    found = context_of(LOGITS[rows], LABELS[rows], SESSION)
    if not replayed:
        return found
    batch = {**found.batch, "replayed": REPLAYED[rows], "exemplar": EXEMPLAR[rows]}
    return replace(found, batch=batch, replayed_share=3 / 7)


def in_pieces(term, *pieces):
    """The step's loss as the loop puts it together, from pieces of the given sizes."""
    total, first = 0.0, 0
    for size in pieces:
        total = total + term(context(slice(first, first + size))) * size / 7
        first += size
    return total


def mean_loss(rows, first=0):
    return F.cross_entropy(LOGITS[rows][:, first:], LABELS[rows] - first)


def test_er_is_the_mean_over_new_images_and_that_over_replayed_ones():
    expected = mean_loss(~REPLAYED) + 0.5 * mean_loss(REPLAYED)
    term = ExperienceReplay(0.5)
    assert torch.allclose(term(context()), expected, atol=1e-14)
    for pieces in ((3, 4), (1, 6), (2, 2, 3)):  # the first piece of the last cut holds no replayed image
        assert torch.allclose(in_pieces(term, *pieces), expected, atol=1e-14)
    (ours,), (theirs,) = (torch.autograd.grad(value, LOGITS) for value in (in_pieces(term, 2, 5), expected))
    assert torch.allclose(ours, theirs, atol=1e-14)


def test_er_ace_lets_new_images_compete_among_new_classes_alone():
    value = ExperienceReplay(1.0, own_classes="new")(context())
    assert torch.allclose(value, mean_loss(~REPLAYED, first=3) + mean_loss(REPLAYED), atol=1e-14)
    (gradient,) = torch.autograd.grad(value, LOGITS)
    assert (gradient[~REPLAYED][:, :3] == 0).all() and (gradient[REPLAYED][:, 3:] != 0).all()


def test_without_replayed_images_it_is_cross_entropy():
    plain = context_of(LOGITS, LABELS, SESSION)
    assert torch.allclose(ExperienceReplay()(plain), F.cross_entropy(LOGITS, LABELS), atol=1e-14)
    first = session_of(5, 5)
    assert torch.allclose(ExperienceReplay(own_classes="new")(context_of(LOGITS, LABELS, first)), F.cross_entropy(LOGITS, LABELS))


class Trainer:
    accelerator = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, memory=None):
        self.memory = memory


def test_the_balanced_softmax_knows_each_classs_share():
    own, kept = Labels([3] * 30 + [4] * 10), Labels([0, 0, 1, 1, 2, 2])
    session = replace(SESSION, train=own, joined_images=Joined(own, kept), batch_size=10)  # pyright: ignore[reportArgumentType]
    for memory, counts in (
        (Exemplars(per_class=2), [2, 2, 2, 30, 10]),
        (Exemplars(per_class=2, replay=5), [20 / 3, 20 / 3, 20 / 3, 30, 10]),  # 4 steps of 5 draws, a third each
    ):
        term = BalancedSoftmax()
        term.begin_session(Trainer(memory), session)
        share = torch.tensor(counts) / sum(counts)
        expected = F.cross_entropy(LOGITS + share.log(), LABELS)
        assert torch.allclose(term(context()), expected, atol=1e-6)
    alike = replace(SESSION, train=Labels([0, 1, 2, 3, 4]))
    term.begin_session(Trainer(), alike)
    assert torch.allclose(term(context()), F.cross_entropy(LOGITS, LABELS), atol=1e-6)


def test_logit_replay_compares_columns_that_were_there_with_what_they_were():
    memory = Exemplars(per_class=2)
    memory._kept = [SimpleNamespace(number=10 + i) for i in range(5)]  # pyright: ignore[reportAttributeAccessIssue]
    then = {10: [0.5, -1.0], 12: [1.0, 2.0, 3.0], 14: [0.0, 0.25, -0.5]}  # classes seen when each was chosen
    term = LogitReplay()
    term.begin_session(Trainer(memory), SESSION)
    term.load_state_dict({"numbers": list(then), "logits": [torch.tensor(row) for row in then.values()]})
    rows = {4: 10, 5: 12, 2: 14}  # row of the batch -> exemplar
    expected = sum(
        (LOGITS[row, : len(then[number])] - torch.tensor(then[number], dtype=torch.float64)).square().mean() / 3
        for row, number in rows.items()
    )
    assert torch.allclose(term(context()).double(), expected, atol=1e-6)
    assert torch.allclose(in_pieces(term, 3, 4).double(), expected, atol=1e-6)
    assert term(context(replayed=False)) == 0
    with pytest.raises(ValueError, match="needs a memory of type exemplars"):
        LogitReplay().begin_session(Trainer(), SESSION)


def test_virtual_outliers_ask_low_energy_of_the_sessions_own_images_alone():
    term = VirtualOutliers()
    term._first, term._slice_size = 3, 2
    term._outliers, term._head = torch.zeros(2, 5, dtype=torch.float64), torch.nn.Identity()  # pyright: ignore
    value = term(context())
    own = replace(context_of(LOGITS[~REPLAYED], LABELS[~REPLAYED], SESSION))
    assert torch.allclose(value, term(own), atol=1e-12)
    assert not torch.allclose(value, term(context_of(LOGITS, LABELS, SESSION)))


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: ExperienceReplay(-1.0), "must not be negative"), (lambda: ExperienceReplay(own_classes="old"), "'new' or 'seen'")],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
