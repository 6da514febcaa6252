"""An adapter that trains in session 0 alone rests to the bit afterwards, while the head goes on learning."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from speed_runs import build

from hf_cl.adapters import SaraConfig
from hf_cl.methods import METHODS, adapt_sessions, coact, compose, glad, lora, ovor, sara
from hf_cl.methods.baselines import LoraSettings
from hf_cl.methods.cpe_clip import CpeClipSettings
from hf_cl.run.early import settings_class

SHARED = {"type": "gaussian", "covariance": "shared"}
WITH = {
    "a fitted head under a map": lambda: ovor(epochs=1, vor_epochs=0, head={"type": "ridge", "feature_map": "rff", "map_dim": 64}),
    "a linear head on features": lambda: sara(adapter=SaraConfig(density=0.1), epochs=1),
    "a loss that needs images": lambda: compose(epochs=1, losses={"prediction_distillation": {}}, head={"type": "cosine"}),
}


def adapters(folder, sessions=3):
    return [load_file(folder / "adapters" / f"session-{i}" / "adapter_model.safetensors") for i in range(sessions)]


@pytest.mark.parametrize("made", WITH.values(), ids=WITH)
def test_after_session_0_the_adapter_rests_and_the_head_goes_on(made, tmp_path):
    method = adapt_sessions(made(), "first")
    results = build("LoRA", tmp_path, method=method).fit()
    first, *later = adapters(tmp_path, len(results.sessions))
    resting = [name for name in first if ".classifier." not in name]
    assert resting and len(later) >= 1
    for after in later:
        assert all(torch.equal(first[name], after[name]) for name in resting)
        assert any(after[name].shape != first[name].shape for name in first if ".classifier." in name)
    assert not any("DriftMap" in type(part).__name__ for part in method.parts)
    assert method.title.endswith("adapter of session 0")


def test_phases_after_session_0():
    class Session:
        def __init__(self, number):
            self.id, self.class_names, self.new_class_names, self.batch_size = number, ["a", "b"], ["b"], 4

    fitted, linear = adapt_sessions(lora(head=SHARED), "first"), adapt_sessions(lora(), "first")
    assert fitted.phases(Session(0))[0].trainable("lora_A") and fitted.phases(Session(1)) == []
    (phase,) = linear.phases(Session(1))
    assert phase.inputs == "features" and phase.trainable("head.weight") and not phase.trainable("lora_A")
    contrast = adapt_sessions(coact(incremental_train="classifier+lora"), "first").phases(Session(1))[0]
    assert contrast.inputs == "images" and not contrast.trainable("x.lora_A")
    assert adapt_sessions(coact(incremental_train="lora"), "first").phases(Session(1)) == []
    method = lora()
    assert adapt_sessions(method, "all") is method


def test_it_is_a_setting_of_every_method_that_trains_an_adapter():
    without = {"linear_probe", "nearest_class_mean", "frozen", "clip_fusion", "dkvb", "etf", "maxsim", "mamba_fscil", "mvp"}
    for name in METHODS:
        fields = getattr(settings_class(name), "__dataclass_fields__", {})  # as its file says them, without torch
        assert ("adapt_sessions" in fields) == (name not in without), name
    assert LoraSettings(head=SHARED, adapt_sessions="first").method().title == "LoRA, adapter of session 0"


def test_a_text_head_is_refused_by_name():
    for make in (CpeClipSettings(adapt_sessions="first").method, lambda: adapt_sessions(glad(), "first")):
        with pytest.raises(ValueError, match=r"under a text head .* Say adapt_sessions: all"):
            make()
    with pytest.raises(ValueError, match="first, first_if_better or all, got 'last'"):
        adapt_sessions(lora(), "last")
