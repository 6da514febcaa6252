"""The file, and what every loading route makes of it on the same base, a rounded one, and another one."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from sara_reference import WEIGHTS, Net, adapted, batch
from tiny import NAMES, base, images
from torch import nn
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from hf_cl.adapters import SaraConfig

THRESHOLD = 5e-3  # a weight rounded to bfloat16 may cross it


@torch.no_grad()
def perturb(model) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "_values" in name or "modules_to_save" in name:
            p.normal_(0, 0.05, generator=generator)


def trained_vit(switched: bool = False) -> PeftModel:
    model = get_peft_model(base("vit"), SaraConfig(threshold=THRESHOLD, class_names=NAMES[:3])).eval()
    perturb(model)
    if switched:
        left = model.base_model.progressive_switch()
        assert 0 < left < model.base_model.active_entries()[1]
    return model


def tensors(model) -> dict[str, torch.Tensor]:
    """Values, positions and marks of the adapter, by module."""
    return {
        f"{name.removeprefix('base_model.model.')}.{part}": getattr(module, part)["default"]
        for name, module in model.named_modules()
        if hasattr(module, "sara_values")
        for part in ("sara_values", "sara_indices", "sara_active")
    }


def same(model, want: dict[str, torch.Tensor]) -> bool:
    got = tensors(model)
    return got.keys() == want.keys() and all(torch.equal(got[key], t) and got[key].dtype == t.dtype for key, t in want.items())


def rounded(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
    return model


@pytest.mark.parametrize("switched", [False, True])
def test_every_route_gives_positions_values_and_marks_back(tmp_path, switched):
    base("vit").save_pretrained(tmp_path / "base")
    model = trained_vit(switched)
    want, logits = tensors(model), model(images()).logits
    model.save_pretrained(tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "base")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    assert config["has_inactive"] == switched
    assert any("sara_active" in key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == switched

    def plain():
        return AutoModelForImageClassification.from_pretrained(tmp_path / "base").eval()

    routes = {
        "from_pretrained": lambda: PeftModel.from_pretrained(plain(), tmp_path / "adapter"),
        "low_cpu_mem_usage": lambda: PeftModel.from_pretrained(plain(), tmp_path / "adapter", low_cpu_mem_usage=True),
        "AutoModel": lambda: AutoModelForImageClassification.from_pretrained(tmp_path / "adapter"),
    }
    for name, route in routes.items():
        loaded = route().eval()
        assert same(loaded, want), name
        assert torch.equal(loaded(images()).logits, logits), name
    loaded = plain()
    loaded.load_adapter(str(tmp_path / "adapter"))
    assert same(loaded, want) and torch.equal(loaded(images()).logits, logits)

    # bases that |w| < threshold would select another number of entries of
    fresh = get_peft_model(rounded(plain()), SaraConfig(threshold=THRESHOLD))
    assert {k: len(t) for k, t in tensors(fresh).items()} != {k: len(t) for k, t in want.items()}
    assert same(PeftModel.from_pretrained(rounded(plain()), tmp_path / "adapter"), want)
    assert same(PeftModel.from_pretrained(plain().bfloat16(), tmp_path / "adapter"), want)
    assert same(PeftModel.from_pretrained(plain().bfloat16(), tmp_path / "adapter", low_cpu_mem_usage=True), want)
    on_rounded = rounded(plain())
    on_rounded.load_adapter(str(tmp_path / "adapter"))
    assert same(on_rounded, want)
    half = AutoModelForImageClassification.from_pretrained(tmp_path / "adapter", dtype=torch.bfloat16)
    assert same(half, want)
    assert half(images().bfloat16()).logits.isfinite().all()


@pytest.mark.parametrize("switched", [False, True])
def test_transformers_reports_no_missing_and_no_unexpected_key(tmp_path, switched):
    trained_vit(switched).save_pretrained(tmp_path)
    model = base("vit")
    info = model.load_adapter(str(tmp_path))
    assert not info.missing_keys and not info.unexpected_keys and not info.mismatched_keys


def test_the_pattern_goes_around(tmp_path):
    model = trained_vit()
    counts = {key.removesuffix(".sara_values"): len(t) for key, t in tensors(model).items() if key.endswith("sara_values")}
    assert model.peft_config["default"].nnz_pattern == counts
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(rounded(base("vit")), tmp_path)
    assert again.peft_config["default"].nnz_pattern == counts
    assert again.peft_config["default"].weight_shapes["vit.layers.0.mlp.fc1"] == [64, 32]


def test_a_state_dict_decides_the_size_whatever_the_config_says():
    trained = adapted(include_bias_norm=True)
    perturb(trained)
    trained.base_model.progressive_switch()
    state = get_peft_model_state_dict(trained)
    other = adapted(include_bias_norm=True, threshold=0.03)
    result = set_peft_model_state_dict(other, state)
    assert not result.unexpected_keys
    assert same(other, tensors(trained))
    assert torch.equal(other(batch(0)[0]), trained(batch(0)[0]))
    assert all(p.requires_grad for name, p in other.named_parameters() if "_values" in name)
    set_peft_model_state_dict(trained, get_peft_model_state_dict(adapted(include_bias_norm=True)))
    assert trained.base_model.active_entries()[0] == trained.base_model.active_entries()[1]


def tampered(tmp_path, change) -> None:
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


INDICES, VALUES = (f"base_model.model.vit.layers.2.mlp.fc1.sara_{part}" for part in ("indices", "values"))


def beyond(state):
    state[INDICES][-1] = 64 * 32


def shuffled(state):
    state[INDICES] = state[INDICES].flip(0).contiguous()


def cut_off(state):
    state[INDICES] = state[INDICES][:-1].contiguous()


def without_values(state):
    del state[VALUES]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (beyond, r"layers\.2\.mlp\.fc1\.weight: position 2048 is beyond the 2048 entries"),
        (shuffled, "not sorted and distinct"),
        (cut_off, "positions for"),
        (without_values, "lacks vit.layers.2.mlp.fc1.sara_values"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    trained_vit().save_pretrained(tmp_path)
    tampered(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base("vit"), tmp_path)


def test_a_damaged_file_is_refused_where_only_the_forward_pass_can(tmp_path):
    """transformers writes into the tensors itself; no hook of the tuner runs."""
    trained_vit().save_pretrained(tmp_path)
    tampered(tmp_path, beyond)
    model = base("vit")
    model.load_adapter(str(tmp_path))
    with pytest.raises(ValueError, match="position 2048 is beyond the 2048 entries"):
        model(images())


def test_damaged_positions_of_a_convolution_are_found_too():
    model = adapted(include_bias_norm=True)
    model.base_model.model.conv.sara_indices["default"][-1] = 8 * 27
    with pytest.raises(ValueError, match=r"conv\.weight: position 216 is beyond the 216 entries"):
        model(batch(0)[0])
    model = adapted(include_bias_norm=True)
    model.base_model.model.fc1.sara_bias_indices["default"][-1] = 80
    with pytest.raises(ValueError, match=r"fc1\.bias: position 80 is beyond the 80 entries"):
        model(batch(0)[0])


def test_a_base_of_another_shape_is_refused(tmp_path):
    trained_vit().save_pretrained(tmp_path)
    wider = ViTForImageClassification(
        ViTConfig(hidden_size=32, num_hidden_layers=6, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8)
    )
    with pytest.raises(ValueError, match=r"shape \[64, 32\] with .* at vit\.layers\.0\.mlp\.fc1; this base has \[128, 32\]"):
        PeftModel.from_pretrained(wider, tmp_path)


def test_a_base_of_another_shape_is_refused_without_a_known_family(tmp_path):
    adapted().save_pretrained(tmp_path)

    class Wider(Net):
        pass

    Wider.__name__ = "Net"
    wide = Wider()
    wide.fc2 = nn.Linear(80, 99)
    with pytest.raises(ValueError, match=r"\[66, 80\].*fc2; this base has \[99, 80\]"):
        PeftModel.from_pretrained(wide, tmp_path)
    with pytest.raises(ValueError, match="made for Net; this base is Sequential"):
        PeftModel.from_pretrained(nn.Sequential(nn.Linear(2, 2)), tmp_path)


def test_the_file_has_eight_bytes_an_entry(tmp_path):
    model = trained_vit()
    model.save_pretrained(tmp_path / "before")
    entries = model.base_model.active_entries()[1]
    own = [t for key, t in load_file(tmp_path / "before" / "adapter_model.safetensors").items() if "sara_" in key]
    assert sum(t.nbytes for t in own) == 8 * entries
    model.base_model.progressive_switch()
    model.save_pretrained(tmp_path / "after")
    own = [t for key, t in load_file(tmp_path / "after" / "adapter_model.safetensors").items() if "sara_" in key]
    assert sum(t.nbytes for t in own) == 9 * entries


def test_weights_of_the_reference_network_round_trip(tmp_path):
    model = adapted(target_modules=[*WEIGHTS, "norm"], include_bias_norm=True)
    perturb(model)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(rounded(Net()), tmp_path)
    assert same(again, tensors(model))
    again = PeftModel.from_pretrained(Net(), tmp_path, is_trainable=True)
    assert torch.equal(again(batch(0)[0]), model(batch(0)[0]))
    assert again.get_nb_trainable_parameters()[0] == model.get_nb_trainable_parameters()[0]
