"""A compressed base: made, saved, loaded, adapted; and what is refused beside the original."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import ADAPTERS, NAMES, base, images
from torch import nn
from transformers import AutoModelForImageClassification

from hf_cl.adapters.low_rank_linear import LowRankLinear, ranks
from hf_cl.backbones import load_backbone
from hf_cl.backbones.low_rank import compress, expand, save_low_rank


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved one of the tiny ViT."""
    place = tmp_path_factory.mktemp("small")
    save_low_rank(compress(base("vit"), 2.0), place)
    return place


def small(folder) -> nn.Module:
    return load_backbone(str(folder)).eval()


def test_the_original_stays_and_the_copy_shrinks_by_the_rule():
    large = base("vit")
    before = large(images()).logits
    made = compress(large, 2.0)
    assert torch.equal(large(images()).logits, before) and not any(isinstance(m, LowRankLinear) for m in large.modules())
    assert ranks(made)["vit.layers.0.attention.q_proj"] == 8 and ranks(made)["vit.layers.3.mlp.fc1"] == 10
    saved = sum(p.numel() for p in large.parameters()) - sum(p.numel() for p in made.parameters())
    assert saved == 6 * (4 * (32 * 32 - 8 * 64) + 2 * (32 * 64 - 10 * 96))
    assert not torch.allclose(made(images()).logits, before, atol=1e-3)


def test_at_full_rank_expanding_gives_the_original():
    large = base("vit")
    made = compress(large, 1.0001, target_modules=["fc1"])
    for name, module in dict(made.named_modules()).items():
        if isinstance(module, LowRankLinear):
            made.set_submodule(name, LowRankLinear.of(large.get_submodule(name), 32))
    whole = expand(made)
    assert type(whole.get_submodule("vit.layers.0.mlp.fc1")) is nn.Linear and not hasattr(whole.config, "hf_cl_low_rank")
    torch.testing.assert_close(whole(images()).logits, large(images()).logits, atol=1e-5, rtol=1e-5)


def test_a_saved_one_loads_to_the_bit(folder):
    made = compress(base("vit"), 2.0)
    again = small(folder)
    assert torch.equal(again.vit(images()).last_hidden_state, made.vit(images()).last_hidden_state)
    assert json.loads((folder / "config.json").read_text())["hf_cl_low_rank"]["ratio"] == 2.0
    assert ranks(again) == ranks(made)


@pytest.mark.parametrize("kind", ["GLAD", "SARA", "MASK_TUNING", "DST"])
def test_adapters_train_on_it_and_come_back(kind, folder, tmp_path):
    model = get_peft_model(small(folder), ADAPTERS[kind](class_names=NAMES[:3]))
    model(images()).logits.square().sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                assert p.grad is not None
                p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    model.eval()
    want = model(images()).logits
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(small(folder), tmp_path).eval()(images()).logits, want)
    with pytest.raises(
        ValueError, match=r"made for vit \(width 32, 6 layers, compressed to low rank\); this base is vit \(width 32, 6 layers\)"
    ):
        PeftModel.from_pretrained(base("vit"), tmp_path)


def test_an_adapter_of_the_original_is_refused_on_it_too(folder, tmp_path):
    get_peft_model(base("vit"), ADAPTERS["SARA"]()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"this base is vit \(width 32, 6 layers, compressed to low rank\)"):
        PeftModel.from_pretrained(small(folder), tmp_path)


def test_types_on_the_weights_take_both_halves(folder):
    model = get_peft_model(small(folder), ADAPTERS["SARA"](target_modules=["q_proj", "layernorm"], include_bias_norm=True))
    names = [name for name, _ in model.base_model.sara_layers()]
    assert "vit.layers.0.attention.q_proj.down" in names and "vit.layers.0.attention.q_proj.up" in names


def test_lora_does_not_merge_into_a_pair_and_unloads_from_it(folder):
    model = get_peft_model(small(folder), ADAPTERS["GLAD"](class_names=NAMES[:3]))
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match=r"a change of the whole matrix at vit\.layers\.0\.attention\.q_proj has no place"):
            merge()
    unloaded = model.unload()
    assert torch.equal(unloaded.vit(images()).last_hidden_state, small(folder).vit(images()).last_hidden_state)
    merges = get_peft_model(small(folder), ADAPTERS["SARA"](init_weights=False)).eval()
    want = merges.base_model.model.vit(images()).last_hidden_state
    assert torch.equal(merges.merge_and_unload().vit(images()).last_hidden_state, want)


@pytest.mark.filterwarnings("ignore")
def test_transformers_alone_makes_a_base_that_its_adapters_refuse(folder, tmp_path):
    get_peft_model(small(folder), ADAPTERS["ONE_PROMPT"]()).save_pretrained(tmp_path)
    stock = AutoModelForImageClassification.from_pretrained(folder)
    with pytest.raises(ValueError, match="compressed to low rank"):
        PeftModel.from_pretrained(stock, tmp_path)


def test_what_is_refused():
    large = base("vit")
    with pytest.raises(ValueError, match="compressed already"):
        compress(compress(large, 2.0), 2.0)
    with pytest.raises(ValueError, match="ratio must be above 1"):
        compress(large, 1.0)
    with pytest.raises(ValueError, match=r"leaves '.*' no rank at all; at most 16\.0 does"):
        compress(large, 40.0)
    with pytest.raises(ValueError, match="No module ends with one of"):
        compress(large, 2.0, target_modules=["query"])
    with pytest.raises(ValueError, match=r"Only Linears are compressed, and .* is a LayerNorm"):
        compress(large, 2.0, target_modules=["vit.layernorm"])
    with pytest.raises(ValueError, match="This model has adapters"):
        compress(get_peft_model(base("vit"), LoraConfig(target_modules=["q_proj"])).get_base_model(), 2.0)
