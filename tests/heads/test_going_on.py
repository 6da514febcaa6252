"""Heads that train as images come: a run that is killed inside a session and goes on ends with the bits of one that was not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from device_runs import ORDERED, ORDERED_MEANS, TARGETS, Kill, Run, _Killed, build
from safetensors.torch import load_file

from hf_cl.methods import lora

RUNS = {
    "language_targets": Run(partial(lora, epochs=1, r=4, head=TARGETS)),
    "nested_dropout": Run(partial(lora, epochs=1, r=4, head=ORDERED)),
    "nested_dropout, fitted": Run(partial(lora, epochs=1, r=4, head=ORDERED_MEANS)),
}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters" / "session-1" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed(name, tmp_path):
    build(RUNS[name], tmp_path / "whole", tmp_path).fit()
    with pytest.raises(_Killed):
        build(RUNS[name], tmp_path / "cut", tmp_path, probes=[Kill(1)], checkpoint_steps=1).fit()
    build(RUNS[name], tmp_path / "cut", tmp_path, probes=[Kill(-1)], checkpoint_steps=1, resume="auto").fit()
    whole, cut = adapter(tmp_path / "whole"), adapter(tmp_path / "cut")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[key], cut[key]) for key in whole)
