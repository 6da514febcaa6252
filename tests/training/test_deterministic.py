"""`deterministic`: kernels with one order of summation, for the time of a run."""

from __future__ import annotations

import os

import pytest
import torch
from speed_runs import build

from hf_cl.contracts import Probe
from hf_cl.training.deterministic import WORKSPACE, prepare_deterministic


class Look(Probe):
    name = "look"

    def begin_session(self, trainer, session):
        self.inside = state()


def state():
    cudnn, cuda = torch.backends.cudnn, torch.backends.cuda
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark, cuda.cudnn_sdp_enabled()


@pytest.fixture(autouse=True)
def same_environment(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":4096:8")  # so that it is put back
    monkeypatch.delenv(WORKSPACE)


@pytest.mark.parametrize("kind", ["ONE_PROMPT", "SARA"])
def test_for_a_run_and_not_longer(kind, tmp_path):
    before, look = state(), Look()
    trainer = build(kind, tmp_path, deterministic=True)
    trainer.probes.append(look)
    results = trainer.fit()
    assert look.inside == (True, True, False, False) and state() == before
    assert results.environment["deterministic"] is True
    assert os.environ[WORKSPACE] == ":4096:8"


def test_it_is_off_where_nobody_asks(tmp_path):
    before, look = state(), Look()
    trainer = build("ONE_PROMPT", tmp_path)
    trainer.probes.append(look)
    assert trainer.fit().environment["deterministic"] is False
    assert look.inside == before and WORKSPACE not in os.environ


@pytest.mark.parametrize("value", [None, ":0:0"])
def test_too_late_is_said(value, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    if value is not None:
        monkeypatch.setenv(WORKSPACE, value)
    with pytest.raises(ValueError, match=f"{WORKSPACE}=:4096:8 before this process first uses CUDA"):
        prepare_deterministic()
