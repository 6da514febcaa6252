"""Killed inside a later session and resumed: adapters on the weights come out to the bit as without a break."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from device_runs import COSINE, Run, build
from resumed import check_same_adapters, killed_and_resumed

from hf_cl.checkpoints.tensors import owned_tensors
from hf_cl.contracts import Method
from hf_cl.methods import DstSettings, MaskTuningSettings, PelaSettings, compose

MASK = {"epochs": 1, "learning_rate": 0.01, "rule": "none", "head": COSINE}
RUNS: dict[str, Callable[[], Method]] = {
    "dst": lambda: DstSettings(epochs=2, density=0.1, update_every=2, head=COSINE).method(),
    "dst, unfired": lambda: DstSettings(epochs=2, density=0.1, update_every=1, growth="random_unfired", head=COSINE).method(),
    "mask_tuning": lambda: MaskTuningSettings(**MASK).method(),
    "mask_tuning, stack": lambda: MaskTuningSettings(**MASK, sessions="stack").method(),
    "pela": lambda: PelaSettings(epochs=1, learning_rate=1e-3, deviation_weight=0.5, adapt_sessions="all", head=COSINE).method(),
    "compander": partial(compose, adapter={"type": "compander", "learn": True}, head=COSINE, epochs=1),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_killed_and_resumed(name, tmp_path):
    run = Run(RUNS[name])
    whole = build(run, tmp_path / "whole", tmp_path)
    whole.fit()
    resumed = killed_and_resumed(partial(build, run, tmp_path / "killed", tmp_path), 1)
    ours, theirs = (owned_tensors(t.model, t.tuner.prefix, t.head) for t in (resumed, whole))
    assert ours.keys() == theirs.keys()
    assert [key for key, tensor in ours.items() if not torch.equal(tensor, theirs[key])] == []
    check_same_adapters(tmp_path / "killed", tmp_path / "whole")
