"""`compile`: one graph serves any number of sessions, and the head that grows is not in it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_runs import LINEAR, Run, both, build, late_coact, one_prompt, text_lora
from torch._dynamo.utils import counters

from hf_cl.methods import lora

SESSIONS = 12
RUNS = {
    "lora": (Run(partial(lora, epochs=1, r=4)), 1),
    "one prompt, cosine head": (Run(partial(one_prompt, {"type": "cosine"})), 1),
    "coact": (Run(partial(late_coact, LINEAR, incremental_train="classifier+lora")), 3),
    "text lora": (Run(text_lora, both("clip"), "clip"), 2),
}
"""Name -> a run, and its graphs: one for each tower and each set of parameters that trains."""


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("name", RUNS)
def test_twelve_sessions_take_the_graphs_of_the_first_ones(name, tmp_path, monkeypatch):
    run, graphs = RUNS[name]
    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **arguments: torch_compile(forward, backend="eager", fullgraph=False))
    counts = []
    trainer = build(run, tmp_path, tmp_path, compile=True, sessions=SESSIONS)
    save = trainer.save_adapter
    monkeypatch.setattr(trainer, "save_adapter", lambda folder: (save(folder), counts.append(counters["stats"]["unique_graphs"])))
    trainer.fit()
    assert len(counts) == SESSIONS and counts[2] == counts[-1] == graphs
