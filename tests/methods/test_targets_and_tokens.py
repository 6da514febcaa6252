"""Methods of fixed targets and of patch tokens through the whole loop: killed and resumed to the bit, and what trains in it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
import torch
from device_runs import RUNS, Kill, _Killed, build
from safetensors.torch import load_file

from hf_cl.methods.etf import EtfSettings

UNDER_LORA = {"lora, language targets": "class_targets", "lora, nested dropout": "projection"}
"""Run -> what of its head rests after session 0."""


@pytest.mark.parametrize("name", ["etf", "maxsim", "mamba_fscil", *UNDER_LORA])
def test_a_killed_run_goes_on_to_the_bit(name, tmp_path):
    straight = build(RUNS[name], tmp_path / "straight", tmp_path)
    wanted = straight.fit()
    for dies in (1, -1):
        resumed = build(RUNS[name], tmp_path / "resumed", tmp_path, probes=[Kill(dies)], checkpoint_steps=1, resume="auto")
        with suppress(_Killed):
            resumed.fit()
    mine, theirs = (trainer.model.state_dict() for trainer in (resumed, straight))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert resumed.results.results.accuracy_matrix == wanted.accuracy_matrix
    if name in UNDER_LORA:
        _looks_like_a_trained_adapter(tmp_path / "straight" / "adapters", UNDER_LORA[name])


def _looks_like_a_trained_adapter(folder: Path, rests: str) -> None:
    """LoRA has learned in both sessions, and the head's part that must not move has not."""
    first, second = (load_file(folder / f"session-{number}" / "adapter_model.safetensors") for number in (0, 1))
    factors = [name for name in first if "glad_B" in name or "lora_B" in name]
    assert factors and all(first[name].any() and not torch.equal(first[name], second[name]) for name in factors)
    (name,) = (name for name in first if name.endswith(rests))
    assert first[name].any() and torch.equal(second[name][: len(first[name])], first[name])


def test_what_trains_and_when():
    method = EtfSettings(warmup_ce_epochs=2).method()
    session = type("S", (), {"id": 0})()
    warm_up, align = method.phases(session)  # pyright: ignore[reportArgumentType]
    assert (warm_up.epochs, align.losses[0].balanced) == (2, False)  # pyright: ignore[reportAttributeAccessIssue]
    session.id = 1
    (align,) = method.phases(session)  # pyright: ignore[reportArgumentType]
    assert align.losses[0].balanced and align.inputs == "features" and not align.trainable("vit.weight")  # pyright: ignore[reportAttributeAccessIssue]
    assert EtfSettings(memory=None).method().memory is None


def test_maps_are_pooled_before_anything_keeps_them(tmp_path):
    """4 x 4 patches of 32 numbers, and a grid of 2: what is held of an image is 2 x 2 x 32 numbers, in the run, in files, in the memory."""
    trainer = build(RUNS["mamba_fscil"], tmp_path / "run", tmp_path, feature_cache=str(tmp_path / "features"))
    trainer.fit()
    session = trainer.plan.sessions[-1]
    held = [trainer.features_of(session.train), *(found for _, found in trainer.features._sets.values())]
    for found in held:
        assert found.features.shape[1:] == (2, 2, 32)
        assert found.features.untyped_storage().nbytes() == len(found.labels) * 2 * 2 * 32 * 4  # and no view of something larger
    rows = [load_file(path)["features"] for path in (tmp_path / "features").rglob("*.safetensors")]
    assert rows and {row.shape[1:] for row in rows} == {(2, 2, 32)}
    assert trainer.memory is not None
    means = trainer.memory.state_dict()["means"]
    assert len(means) == 4 and {mean.shape for mean in means} == {(2, 2, 32)}
