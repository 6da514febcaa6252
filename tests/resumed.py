"""Runs that die inside a session and go on, beside those that did not, and adapters that another process reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import adapter_case
import pytest
import torch
from device_runs import Kill, _Killed
from processes import run as run_process
from safetensors.torch import load_file

from hf_cl import ContinualTrainer


def killed_and_resumed(begin: Callable[..., ContinualTrainer], session: int) -> ContinualTrainer:
    """Of a run that died in the second step of a session and then went on to its end; `begin(**settings)` makes the trainer of either."""
    with pytest.raises(_Killed):
        begin(probes=[Kill(session)], checkpoint_steps=1).fit()
    trainer = begin(probes=[Kill(-1)], checkpoint_steps=1, resume="auto")
    trainer.fit()
    return trainer


def adapters(run: Path) -> list[dict[str, torch.Tensor]]:
    """Tensors of the adapter of each session."""
    return [load_file(path) for path in sorted(run.glob("adapters/*/adapter_model.safetensors"))]


def check_same_adapters(ours: Path, theirs: Path) -> None:
    """Two runs left the same tensors, to the bit."""
    assert adapters(theirs)
    for mine, wanted in zip(adapters(ours), adapters(theirs), strict=True):
        assert mine.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(mine[name], wanted[name])] == []


def check_in_a_fresh_process(folder: Path, run: Path, model: torch.nn.Module) -> None:
    """peft alone gets the trained model's logits from its last adapter; `folder` holds the checkpoint of the base."""
    loaded = run_process(Path(adapter_case.__file__), folder, sorted(run.glob("adapters/*"))[-1])
    assert loaded.status == 0, loaded.output
    assert f"TOTAL {adapter_case.total(model)}" in loaded.output
