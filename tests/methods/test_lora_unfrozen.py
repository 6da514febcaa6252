"""lora(unfreeze_from=...): LoRA, and copies of the last blocks that train beside it, with cross-entropy alone."""

from __future__ import annotations

import pytest
import torch
from loop_case import backbone
from peft import PeftModel
from test_kept_features import trainer_of

from hf_cl.adapters import AsyncLoraConfig, GladConfig
from hf_cl.contracts import Probe
from hf_cl.methods import lora
from hf_cl.methods.baselines import LoraSettings
from hf_cl.training.run_state import RunState


class Stop(Probe):
    """Ends the run after an optimizer step."""

    name = "stop"

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.position.step == self.step:
            raise KeyboardInterrupt


def of(folder, **settings):
    return trainer_of(folder, lora(epochs=1, unfreeze_from=5, head={"type": "linear", "pooler": False}), sessions=2, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    trainer = of(tmp_path_factory.mktemp("whole"))
    trainer.fit()
    return trainer


def tensors(trainer):
    return {name: tensor.detach().clone() for name, tensor in trainer.named_parameters}


def test_the_last_block_trains_too_and_travels_in_the_adapter(whole):
    copies = {name: p for name, p in whole.named_parameters if ".async_lora_copy." in name}
    assert copies and all(".layers.5." in name or "layernorm" in name for name in copies)
    before = dict(backbone(0.0).named_parameters())
    moved = [
        name
        for name, p in copies.items()
        if not torch.equal(p, before[name.replace(".async_lora_copy.default", "").replace(".base_layer", "")])
    ]
    assert len(moved) > len(copies) / 2 and whole.config.unfrozen and whole.tuner.states["default"].teacher is None
    again = PeftModel.from_pretrained(backbone(0.0), str(whole.folder / "adapters" / "session-1")).eval()
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(pixel_values=pixels).logits, whole.model.eval()(pixel_values=pixels).logits)


def test_a_run_that_stopped_inside_a_session_goes_on_to_the_bit(whole, tmp_path):
    stopped = of(tmp_path, checkpoint_steps=1)
    stopped.probes.append(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert RunState(tmp_path / "checkpoints", stopped.accelerator).store.steps()
    resumed = of(tmp_path, checkpoint_steps=1, resume="auto")
    resumed.fit()
    found, want = tensors(resumed), tensors(whole)
    assert found.keys() == want.keys() and all(torch.equal(found[name], want[name]) for name in want)


def test_without_it_lora_is_what_it_was():
    assert isinstance(lora().adapter, GladConfig) and isinstance(lora(unfreeze_from="last").adapter, AsyncLoraConfig)
    assert LoraSettings(unfreeze_from=-1).method().adapter.unfreeze_from == -1
    with pytest.raises(ValueError, match="unfrozen_lr_factor must be positive, got 0"):
        lora(unfreeze_from=5, unfrozen_lr_factor=0)
