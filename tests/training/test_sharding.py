"""What accelerate may be configured for: plain data parallelism."""

from __future__ import annotations

import re

import pytest
from loop_case import build

from hf_cl.training.checks import check_strategy


@pytest.mark.parametrize(
    ("strategy", "variable"),
    [
        ("FSDP", "ACCELERATE_USE_FSDP"),
        ("DeepSpeed", "ACCELERATE_USE_DEEPSPEED"),
        ("Megatron-LM", "ACCELERATE_USE_MEGATRON_LM"),
    ],
)
def test_sharding_is_refused_before_anything_starts(strategy, variable, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, "true")  # as `accelerate launch` sets it
    with pytest.raises(ValueError, match=f"configured for {strategy}.*{re.escape('recipes/accelerate/multi_gpu.yaml')}"):
        build(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(variable, "false")
    check_strategy()


def test_buffers_are_not_broadcast_at_every_forward(tmp_path):
    """They are equal on all processes, and a written buffer is a new one to whoever remembers it."""
    handler = build(tmp_path).accelerator.ddp_handler
    assert handler is not None and handler.to_kwargs() == {"forward_sync_buffers": False}
