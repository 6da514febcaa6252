"""Generated LoRA in a run: sessions grow inside it, the same bits after a resume and in another process."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from device_runs import Run, build
from resumed import adapters, check_in_a_fresh_process, check_same_adapters, killed_and_resumed

from hf_cl.losses import GeneratedFactors
from hf_cl.methods import HyperLoraSettings, hyper_lora
from hf_cl.parts import OldRowsRest, SessionMeans

SMALL = Run(
    lambda: HyperLoraSettings(
        epochs=1, r=2, hidden_size=8, grow_hidden=2, importance="fisher", regularize_sessions=1, beta=1.0, learning_rate=1e-2
    ).method()
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hyper_lora")
    trainer = build(SMALL, folder / "run", folder, sessions=3)
    return folder, trainer, trainer.fit()


def named(tensors, name):
    (found,) = [tensor for key, tensor in tensors.items() if key.endswith(f".{name}")]
    return found


def test_killed_in_session_2_and_resumed_to_the_bit(whole, tmp_path):
    folder, _, results = whole
    resumed = killed_and_resumed(partial(build, SMALL, tmp_path, folder, sessions=3), 2)
    assert resumed.results.results.accuracy_matrix == results.accuracy_matrix
    check_same_adapters(tmp_path, folder / "run")


def test_the_last_adapter_in_a_fresh_process(whole):
    folder, trainer, _ = whole
    check_in_a_fresh_process(folder, folder / "run", trainer.model)


def test_what_a_session_leaves(whole):
    """Embeddings and head rows of earlier sessions rest; each class has a mean of unit length."""
    first, second, third = adapters(whole[0] / "run")
    assert [named(each, "weight_hh").shape[-1] for each in (first, second, third)] == [8, 10, 12]
    assert torch.equal(named(third, "past"), torch.stack([named(first, "embedding"), named(second, "embedding")]))
    for each, classes in ((first, 2), (second, 4), (third, 6)):
        torch.testing.assert_close(named(each, "means").norm(dim=1), torch.ones(classes))
    assert torch.equal(named(third, "means")[:4], named(second, "means"))
    assert torch.equal(third["base_model.model.classifier.weight"][:4], second["base_model.model.classifier.weight"])


def test_what_it_is_made_of():
    method = HyperLoraSettings(beta=0.5, adapt_sessions="all").method()
    held, means, rest = method.parts
    assert isinstance(held, GeneratedFactors) and isinstance(means, SessionMeans) and isinstance(rest, OldRowsRest)
    assert held.weight == 0.5
    first = HyperLoraSettings(adapt_sessions="first", head={"type": "gaussian"}).method()
    assert not first.adapter.grows and not first.parts
    with pytest.raises(ValueError, match="adapt_sessions: first"):
        HyperLoraSettings(head={"type": "gaussian"}).method()
    assert [type(part) for part in hyper_lora(adapter=HyperLoraSettings(session_inference="given").method().adapter).parts] == [
        GeneratedFactors,
        OldRowsRest,
    ]
