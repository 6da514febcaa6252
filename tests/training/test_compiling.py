"""`compile`: one graph serves any number of sessions, and the head that grows is not in it."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_runs import LINEAR, Run, both, build, late_coact, one_prompt, prompts, sparse, text_lora
from safetensors.torch import load_file
from torch._dynamo.utils import counters

from hf_cl.methods import lora

RUNS = {
    "lora": (Run(partial(lora, epochs=1, r=4)), 1),
    "one prompt, cosine head": (Run(partial(one_prompt, {"type": "cosine"})), 1),
    "coact": (Run(partial(late_coact, LINEAR, incremental_train="classifier+lora")), 3),
    "sara": (Run(partial(sparse, LINEAR)), 1),
    "cpe_clip": (Run(prompts, both("clip"), "clip"), 2),
    "text lora": (Run(text_lora, both("clip"), "clip"), 2),
}
"""Name -> a run, and its graphs: one for each tower and each set of parameters that trains."""


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


LONG = [pytest.param(name, 12, marks=[] if name == "lora" else [pytest.mark.slow]) for name in RUNS]
"""Twelve sessions are more than dynamo compiles one function anew; what it does anew in each session shows in four, too."""


@pytest.mark.parametrize(("name", "sessions"), [*LONG, *((name, 4) for name in RUNS if name != "lora")])
def test_more_sessions_take_the_graphs_of_the_first_ones(name, sessions, tmp_path, monkeypatch):
    run, graphs = RUNS[name]
    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **arguments: torch_compile(forward, backend="eager", fullgraph=False))
    counts = []
    trainer = build(run, tmp_path, tmp_path, compile=True, sessions=sessions)
    save = trainer.save_adapter
    monkeypatch.setattr(trainer, "save_adapter", lambda folder: (save(folder), counts.append(counters["stats"]["unique_graphs"])))
    trainer.fit()
    assert len(counts) == sessions and counts[2] == counts[-1] == graphs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "coact"])
def test_inductor_trains_what_is_trained_without(name, tmp_path):
    run, graphs = RUNS[name]
    for way in ("plain", "compiled"):
        assert counters["stats"]["unique_graphs"] == 0
        trainer = build(run, tmp_path / way, tmp_path, sessions=3, compile=way == "compiled")
        trainer.method.adapter.lora_dropout = 0.0  # inductor draws its masks from numbers of its own
        trainer.fit()
    assert counters["stats"]["unique_graphs"] == graphs
    for session in range(3):
        file = f"adapters/session-{session}/adapter_model.safetensors"
        plain, compiled = (load_file(tmp_path / way / file) for way in ("plain", "compiled"))
        torch.testing.assert_close(compiled, plain, atol=1e-4, rtol=1e-3)
