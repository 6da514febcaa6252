"""SLCA in a run: slow adapter, rows at rest, aligned heads, the same bits after a resume."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_runs import Run, build
from resumed import adapters, check_same_adapters, killed_and_resumed
from torch import nn

from hf_cl.losses import MaskedCrossEntropy, SymmetricCrossEntropy
from hf_cl.methods import slca
from hf_cl.parts import ClassifierAlignment, OldRowsRest

SMALL = Run(partial(slca, epochs=1, r=4, reverse_weight=0.1, head={"type": "linear", "age_scale": 0.02}, alignment={"epochs": 2}))


class Session:
    """What the optimizer asks of a session."""

    def __init__(self, number):
        self.id = number


def rates(method, session, *at):
    named = [("vit.lora_A", nn.Parameter(torch.zeros(1))), ("head.weight", nn.Parameter(torch.zeros(1)))]
    optimizer, schedule = method.optimizer(Session(session), named)
    assert [group["params"] for group in optimizer.param_groups] == [[named[0][1]], [named[1][1]]]
    return [pytest.approx(list(schedule(epoch, 0))) for epoch in at]


def test_the_adapter_learns_slowly():
    assert rates(slca(), 0, 17, 18) == [[1e-3, 1e-2], [1e-4, 1e-3]]  # 18 of 20 epochs, as on CIFAR-100
    plus = slca(first_adapter_lr_scale=0.5, decay_at=None)
    assert rates(plus, 0, 0) == [[5e-3, 1e-2]] and rates(plus, 1, 0) == [[1e-3, 1e-2]]
    assert rates(plus, 1, 10) == [[0.55e-3, 0.55e-2]]
    with pytest.raises(ValueError, match="decay_at"):
        slca(decay_at=18)


def test_what_it_is_made_of():
    align, rest, _ = slca(alignment={"epochs": 7}).parts
    assert isinstance(align, ClassifierAlignment) and align.epochs == 7 and isinstance(rest, OldRowsRest)
    kinds = [type(slca(reverse_weight=w).phases(Session(0))[0].losses[0]) for w in (0.0, 0.1)]
    assert kinds == [MaskedCrossEntropy, SymmetricCrossEntropy]
    with pytest.raises(ValueError, match="Did you mean 'epochs'"):
        slca(alignment={"epoch": 7})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slca")
    results = build(SMALL, folder / "run", folder, sessions=3).fit()
    return folder, results.accuracy_matrix


@pytest.mark.parametrize("session", [1, 2])
def test_killed_and_resumed_to_the_bit(whole, tmp_path, session):
    """In the middle of a session: rows at rest; of the next one: rows before alignment."""
    folder, matrix = whole
    resumed = killed_and_resumed(partial(build, SMALL, tmp_path, folder, sessions=3), session)
    assert resumed.results.results.accuracy_matrix == matrix
    check_same_adapters(tmp_path, folder / "run")


def test_ages_are_saved_and_rows_are_aligned(whole):
    first, second, third = adapters(whole[0] / "run")
    (ages,) = [name for name in third if name.endswith("row_sessions")]
    assert third[ages].tolist() == [0, 0, 1, 1, 2, 2]
    (rows,) = [name for name in third if name.endswith("classifier.weight")]
    assert not torch.equal(second[rows][:2], first[rows]) and not torch.equal(third[rows][:2], first[rows])
