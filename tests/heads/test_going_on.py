"""Heads that train as images come: a run that is killed inside a session and goes on ends with the bits of one that was not."""

from __future__ import annotations

from functools import partial

import pytest
from device_runs import ORDERED, ORDERED_MEANS, TARGETS, Run, build
from resumed import check_same_adapters, killed_and_resumed

from hf_cl.methods import lora

RUNS = {
    "language_targets": Run(partial(lora, epochs=1, r=4, head=TARGETS)),
    "nested_dropout": Run(partial(lora, epochs=1, r=4, head=ORDERED)),
    "nested_dropout, fitted": Run(partial(lora, epochs=1, r=4, head=ORDERED_MEANS)),
}


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed(name, tmp_path):
    build(RUNS[name], tmp_path / "whole", tmp_path).fit()
    killed_and_resumed(partial(build, RUNS[name], tmp_path / "cut", tmp_path), 1)
    check_same_adapters(tmp_path / "cut", tmp_path / "whole")
