"""Nothing collects garbage between phases: with torch and transformers imported, that costs more than a step of a small model."""

from __future__ import annotations

import gc

from speed_runs import build

from hf_cl.methods import ovor


def test_phases_and_sessions_collect_nothing(tmp_path, monkeypatch):
    trainer = build("ONE_PROMPT", tmp_path, method=ovor(epochs=1, vor_epochs=1, layer_tokens={0: 2}))
    calls = []
    monkeypatch.setattr(gc, "collect", lambda *args: calls.append(args))
    trainer.fit()
    assert calls == []
    assert trainer.accelerator._models == trainer.accelerator._optimizers == []  # released all the same
