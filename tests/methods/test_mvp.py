"""MVP in a run: resumed to the bit, loaded elsewhere, refused on features."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapter_case import total
from device_runs import Kill, Run, _Killed, build
from processes import run as run_process
from safetensors.torch import load_file

from hf_cl.contracts import Phase, is_head
from hf_cl.losses import ContrastiveKeys, MaskedCrossEntropy, PromptKeys
from hf_cl.methods import MvpSettings

CASE = Path(__file__).parents[1] / "adapter_case.py"


def small():
    return MvpSettings(e_layers=[1], g_layers=[0], pool_size=3, e_tokens=2, per_sample=True, key_contrast="per_image").method()


SMALL = Run(small)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mvp")
    trainer = build(SMALL, folder / "run", folder, sessions=3)
    return folder, trainer, trainer.fit()


def adapters(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(path) for path in sorted(folder.glob("adapters/*/adapter_model.safetensors"))]


def test_killed_in_session_2_and_resumed_to_the_bit(whole, tmp_path):
    folder, _, results = whole
    with suppress(_Killed):
        build(SMALL, tmp_path, folder, sessions=3, probes=[Kill(2)], checkpoint_steps=1).fit()
    resumed = build(SMALL, tmp_path, folder, sessions=3, probes=[Kill(-1)], checkpoint_steps=1, resume="auto").fit()
    assert resumed.accuracy_matrix == results.accuracy_matrix
    for mine, wanted in zip(adapters(tmp_path), adapters(folder / "run"), strict=True):
        assert mine.keys() == wanted.keys() and all(torch.equal(mine[name], wanted[name]) for name in wanted)


def test_the_last_adapter_in_a_fresh_process(whole):
    folder, trainer, _ = whole
    loaded = run_process(CASE, folder, folder / "run" / "adapters" / "session-2")
    assert loaded.status == 0, loaded.output
    assert f"TOTAL {total(trainer.model)}" in loaded.output


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
