"""The record of the rule, the head, and the way back to plain LoRA."""

from __future__ import annotations

import json

import pytest
import torch
import two_towers
from peft import LoraConfig, PeftConfig, PeftModel, PeftType, get_peft_model
from processes import interpreter
from safetensors.torch import save_file
from tiny import base as tiny_base
from transformers import CLIPConfig, CLIPModel
from two_towers import NAMES

from hf_cl.adapters import GladConfig
from hf_cl.adapters.glad import export_lora


def trained(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.3, generator=generator)
    return model.eval()


def output(model, family: str = "clip") -> torch.Tensor:
    ids = two_towers.tokenizer()(["w10.", "w11."], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(input_ids=ids, pixel_values=two_towers.images()).logits_per_image


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "glda"}, "Did you mean 'glad'"),
        ({"rho": 0.0}, "rho is the radius of rule 'glad' and must be positive"),
        ({"rule": "sam", "rho": -1.0}, "rule 'sam' and must be positive"),
        ({"lam": 1.5}, r"must lie in \[0, 1\]"),
        ({"rule": "gradient_norm"}, "needs mu"),
        ({"head": {"type": "text", "template": "no place"}}, "exactly one {}"),
        ({"class_names": ["a", "a"]}, "more than once"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GladConfig(**settings)


def test_defaults_and_what_rules_do_not_use():
    assert (GladConfig().r, GladConfig().lora_alpha, GladConfig().use_rslora, GladConfig().lora_dropout) == (2, 1, True, 0.25)
    assert GladConfig().lam == 0.5 and GladConfig(rule="prograd").lam == 1.0
    assert GladConfig(rule="none", rho=0.0).peft_type is PeftType["GLAD"]
    assert GladConfig(rule="gradient_norm", mu=0.5, rho=0.05).mu == 0.5


def test_parameters_and_identity_on_vit_b_16():
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))
    model = get_peft_model(model, GladConfig(), low_cpu_mem_usage=True)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 184_320
    plain = two_towers.base("clip")
    want = output(plain)
    fresh = get_peft_model(plain, GladConfig()).eval()
    assert torch.equal(output(fresh), want)
    assert fresh.base_model.model.text_model.encoder.layers[0].self_attn.q_proj.scaling["default"] == pytest.approx(0.5**0.5)


def test_the_record_and_the_head_are_saved(tmp_path):
    model = trained(get_peft_model(two_towers.base("clip"), GladConfig(class_names=list(NAMES), rule="sagm", rho=0.03)))
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {key: saved[key] for key in ("peft_type", "rule", "rho", "lam", "class_names")} == {
        "peft_type": "GLAD",
        "rule": "sagm",
        "rho": 0.03,
        "lam": 0.5,
        "class_names": NAMES,
    }
    assert saved["head"] == {"type": "text", "template": "a photo of a {}.", "logit_scale": 100.0, "clean_class_names": True}
    assert torch.equal(output(PeftModel.from_pretrained(two_towers.base("clip"), tmp_path).eval()), output(model))
    loaded = two_towers.base("clip")
    loaded.load_adapter(str(tmp_path), adapter_name="x")
    assert torch.equal(output(loaded), output(model))
    loaded.delete_adapter("x")
    assert torch.equal(output(loaded), output(two_towers.base("clip")))
    assert not [name for name, _ in loaded.named_parameters() if "lora" in name]


@pytest.mark.parametrize("family", ["vit", "clip_vision"])
def test_a_base_with_a_classifier_keeps_its_kind_of_head(family):
    assert get_peft_model(tiny_base(family), GladConfig(class_names=["a", "b"])).peft_config["default"].head == {"type": "linear"}


def test_timm_shares_one_a_between_q_k_and_v():
    model = get_peft_model(tiny_base("timm"), GladConfig(class_names=["a", "b"]))
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert names and all("attn.qkv.lora_A" in name for name in names)


def test_merged_and_disabled():
    model = trained(get_peft_model(two_towers.base("clip"), GladConfig()))
    want = output(model)
    with model.disable_adapter():
        assert torch.equal(output(model), output(two_towers.base("clip")))
    torch.testing.assert_close(output(model.merge_and_unload()), want, atol=1e-4, rtol=0)


def test_to_lora_config():
    config = GladConfig(class_names=["a"], r=3, target_modules=["q_proj"], rho=0.1)
    plain = config.to_lora_config()
    assert type(plain) is LoraConfig and plain.peft_type is PeftType.LORA
    assert (plain.r, plain.lora_alpha, plain.use_rslora, plain.lora_dropout, plain.target_modules) == (3, 1, True, 0.25, {"q_proj"})


WITHOUT_HF_CL = """
import sys, torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPModel
torch.set_num_threads(1)
folder = sys.argv[1]
data = load_file(folder + "/data.safetensors")
model = PeftModel.from_pretrained(CLIPModel.from_pretrained(folder + "/base"), folder + "/lora").eval()
with torch.no_grad():
    found = model(input_ids=data["ids"], pixel_values=data["pixels"]).logits_per_image
assert torch.equal(found, data["want"]), (found - data["want"]).abs().max()
assert type(model.peft_config["default"]).__name__ == "LoraConfig" and "hf_cl" not in sys.modules
"""


def test_the_export_loads_without_hf_cl(tmp_path):
    two_towers.base("clip").save_pretrained(tmp_path / "base")
    model = trained(get_peft_model(CLIPModel.from_pretrained(tmp_path / "base"), GladConfig(class_names=list(NAMES))))
    export_lora(model, tmp_path / "lora")
    ids = two_towers.tokenizer()(["w10.", "w11."], return_tensors="pt")["input_ids"]
    save_file({"want": output(model).contiguous(), "ids": ids, "pixels": two_towers.images()}, tmp_path / "data.safetensors")
    done = interpreter("-c", WITHOUT_HF_CL, tmp_path)
    assert done.status == 0, done.output[-3000:]


def test_what_is_no_lora_is_not_exported(tmp_path):
    from hf_cl.adapters import CPEClipConfig

    with pytest.raises(ValueError, match="Only GLAD adapters"):
        export_lora(get_peft_model(two_towers.base("clip"), CPEClipConfig()), tmp_path)
    with pytest.raises(ValueError, match="open_clip packs q, k and v"):
        export_lora(get_peft_model(two_towers.base("open_clip"), GladConfig()), tmp_path)


def test_values_that_peft_makes_objects_of_are_refused_before_it_does():
    """peft drops a keyword that such an object does not know and asks for the whole config again, for ever."""
    with pytest.raises(ValueError, match="GLAD is plain LoRA; it has no monteclora_config"):
        PeftConfig.from_peft_type(peft_type="GLAD", monteclora_config={"unknown": 1})
