"""Two gloo processes train a text head as one does: the gradient is that of the global batch, each rank encodes the same texts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clip_runs import write_photos
from processes import run as start
from safetensors.torch import load_file
from text_heads_case import METHODS, run

CASE = Path(__file__).with_name("text_heads_case.py")


@pytest.mark.distributed
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_a_text_head_as_one(method, tmp_path):
    photos = write_photos(tmp_path / "photos")
    done = start(CASE, method, tmp_path / "two", photos, processes=2)
    assert done.status == 0, done.output[-3000:]
    run(method, tmp_path / "one", photos)
    folders = [tmp_path / processes for processes in ("one", "two")]
    for session in range(3):
        one, two = (load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors") for folder in folders)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-4, equal_nan=True)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert one["accuracy_matrix"] == two["accuracy_matrix"]
