"""An adapter that grows by session: trained, killed and resumed, loaded elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from growth_case import build, digest, logits_of
from processes import run
from safetensors.torch import load_file

CASE = Path(__file__).parent / "growth_case.py"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = build(folder)
    trainer.fit()
    return trainer, folder


def test_what_a_session_adds_is_saved_with_it(whole):
    _, folder = whole
    key = "base_model.model.vit.layers.0.mlp.growing_shift"
    files = [load_file(folder / "adapters" / f"session-{t}" / "adapter_model.safetensors") for t in range(3)]
    assert [len(next(tensor for name, tensor in file.items() if name.startswith(key) or ".growing_shift" in name)) for file in files] == [
        1,
        2,
        3,
    ]
    assert all(tensor.abs().sum() > 0 for name, tensor in files[2].items() if ".growing_shift" in name)


def test_a_resume_inside_session_2_goes_on_to_the_bit(whole, tmp_path):
    died = run(CASE, "train", tmp_path, 14)  # the second step of session 2
    assert died.status == 9, died.output
    trainer = build(tmp_path)
    trainer.fit()
    assert digest(tmp_path) == digest(whole[1])
    assert {t.shape[0] for name, t in trainer.frozen.snapshots["previous"].items() if "growing_shift" in name} == {2}


def test_a_fresh_process_loads_the_grown_adapter(whole):
    loaded = run(CASE, "load", whole[1])
    assert loaded.status == 0, loaded.output
    assert f"LOGITS {logits_of(whole[0].model).double().sum().item().hex()}" in loaded.output


def test_a_session_without_a_new_class_is_told_to_the_tuner(whole):
    trainer, _ = whole
    weight = trainer.head.weight
    trainer.tuner.grow("default", ())
    assert trainer.config.classes_per_session == [2, 2, 2, 0] and trainer.head.weight is weight
    assert {len(p) for name, p in trainer.model.named_parameters() if "growing_shift" in name} == {4}
    assert torch.isfinite(logits_of(trainer.model)).all()
