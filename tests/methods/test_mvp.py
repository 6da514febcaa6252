"""MVP in a run: resumed to the bit, loaded elsewhere, refused on features."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from device_runs import Run, build
from resumed import adapters, check_in_a_fresh_process, check_same_adapters, killed_and_resumed

from hf_cl.contracts import Phase, is_head
from hf_cl.losses import ContrastiveKeys, MaskedCrossEntropy, PromptKeys
from hf_cl.methods import MvpSettings


def small():
    return MvpSettings(e_layers=[1], g_layers=[0], pool_size=3, e_tokens=2, per_sample=True, key_contrast="per_image").method()


SMALL = Run(small)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mvp")
    trainer = build(SMALL, folder / "run", folder, sessions=3)
    return folder, trainer, trainer.fit()


def test_killed_in_session_2_and_resumed_to_the_bit(whole, tmp_path):
    folder, _, results = whole
    resumed = killed_and_resumed(partial(build, SMALL, tmp_path, folder, sessions=3), 2)
    assert resumed.results.results.accuracy_matrix == results.accuracy_matrix
    check_same_adapters(tmp_path, folder / "run")


def test_the_last_adapter_in_a_fresh_process(whole):
    folder, trainer, _ = whole
    check_in_a_fresh_process(folder, folder / "run", trainer.model)


def test_every_choice_of_every_update_is_counted(whole):
    """12 images a session, each in three updates."""
    for number, tensors in enumerate(adapters(whole[0] / "run")):
        (count,) = [tensor for name, tensor in tensors.items() if "prompt_pool_count" in name]
        assert int(count.sum()) == 3 * 12 * (number + 1)


def test_a_phase_on_features_is_refused(tmp_path):
    method = small()
    method = replace(method, phases=lambda session: [Phase("head", 1, [MaskedCrossEntropy()], is_head, inputs="features")])
    with pytest.raises(ValueError, match="The head reads chosen of each image"):
        build(Run(lambda: method), tmp_path / "run", tmp_path).fit()


def test_arms():
    keys = [MvpSettings(balance=balance).method().phases(None)[0].losses[1] for balance in (True, False)]
    assert [type(loss) for loss in keys] == [ContrastiveKeys, PromptKeys]
    assert MvpSettings(mask=False).method().adapter.head == {"type": "linear"}
    assert MvpSettings(pool_size=7).method().adapter.head == {"type": "instance_mask", "pool_size": 7}
