"""One config for a family of prompt methods, and for towers that stand alone."""

from __future__ import annotations

import pytest
import torch
import two_towers
from peft import get_peft_model
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    SiglipTextModel,
    SiglipVisionModel,
)
from two_towers import NAMES, images

from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.cpe_clip import nearest_tokens
from hf_cl.backbones import ClipClassifier


def vit_b_16() -> CLIPModel:
    with torch.device("meta"):
        return CLIPModel(CLIPConfig(vision_config={"patch_size": 16}))


def count(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, 406_272),
        ({"towers": "text"}, 12_288),
        ({"towers": "text", "num_prompt_tokens": 16, "prompt_depth": 1}, 16 * 512),
        ({"towers": "vision", "num_prompt_tokens": 50, "prompt_depth": 1}, 50 * 768),
        ({"coupling": "per_layer_linear", "vision_mode": "replace", "prompt_depth": 9}, 9 * (2 * 512 + 512 * 768 + 768)),
        ({"coupling": "independent", "num_prompt_tokens": 4, "prompt_depth": 9}, 9 * 4 * (512 + 768)),
    ],
    ids=["CPE-CLIP", "text", "CoOp", "VPT", "MaPLe", "independent"],
)
def test_parameters_on_vit_b_16(settings, parameters):
    model = get_peft_model(vit_b_16(), CPEClipConfig(**settings), low_cpu_mem_usage=True)
    assert count(model) == parameters
    assert not model.active_peft_config.is_prompt_learning


@pytest.mark.parametrize("family", two_towers.FAMILIES)
@pytest.mark.parametrize(
    "settings",
    [{"towers": "text"}, {"towers": "vision"}, {"coupling": "per_layer_linear"}, {"coupling": "independent"}, {"prompt_depth": 1}],
    ids=str,
)
def test_every_tensor_trains_through_the_text_head(family, settings):
    model = get_peft_model(two_towers.base(family), CPEClipConfig(class_names=list(NAMES), **settings))
    classifier = ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer_of(family)).train()
    torch.nn.functional.cross_entropy(classifier(images())[1], torch.arange(4)).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert grads and all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_only_the_prompted_tower_changes():
    plain = two_towers.base("clip")
    ids = torch.tensor([[two_towers.BOS, 10, two_towers.DOT, two_towers.EOS]])
    text, image = plain.get_text_features(ids).pooler_output, plain.get_image_features(images()).pooler_output
    for towers in ("text", "vision"):
        model = get_peft_model(two_towers.base("clip"), CPEClipConfig(towers=towers)).get_base_model()
        assert torch.equal(model.get_text_features(ids).pooler_output, text) == (towers == "vision")
        assert torch.equal(model.get_image_features(images()).pooler_output, image) == (towers == "text")


def test_per_layer_prompts_of_maple_are_their_own_linears():
    torch.manual_seed(0)
    model = get_peft_model(two_towers.base("clip"), CPEClipConfig(coupling="per_layer_linear", prompt_depth=2))
    layer = model.get_base_model().text_model.embeddings.token_embedding
    g, maps = layer.cpe_clip_prompts["default"], layer.cpe_clip_proj["default"]
    for i in range(2):
        assert torch.equal(layer.vision_prompts(i), maps[i](g[i]))
    assert layer.vision_prompts(2) is None and layer.text_prompts(2) is None


@pytest.mark.parametrize(("text_layers", "vision_layers"), [(2, 5), (5, 2)])
@pytest.mark.parametrize("mode", ["accumulate", "replace", "accumulate_same"])
def test_towers_of_different_depth(text_layers, vision_layers, mode):
    """The deeper tower may have more prompts than the other has layers: the surplus rests there."""

    def grads(depth):
        torch.manual_seed(0)
        plain = two_towers.clip(text_layers, vision_layers)
        model = get_peft_model(plain, CPEClipConfig(prompt_depth=depth, vision_mode=mode, class_names=list(NAMES)))
        classifier = ClipClassifier(plain, model.peft_config["default"], two_towers.tokenizer()).train()
        classifier(images())[1][:, 0].sum().backward()
        layer = plain.text_model.embeddings.token_embedding
        return model.peft_config["default"].prompt_depth, layer.cpe_clip_prompts["default"].grad.flatten(1).norm(dim=1)

    depth, norms = grads(None)
    assert depth == 2 and len(norms) == 2 and (norms > 0).all()
    depth, norms = grads(5)
    assert depth == 5 and (norms > 0).all()
    with pytest.raises(ValueError, match="prompt_depth 6 is more than the 5 layers"):
        grads(6)


CLIP, SIGLIP = two_towers.clip().config, two_towers.siglip().config
LONE_VISION = [(CLIPVisionModel, CLIP), (CLIPVisionModelWithProjection, CLIP), (SiglipVisionModel, SIGLIP)]
LONE_TEXT = [(CLIPTextModel, CLIP), (CLIPTextModelWithProjection, CLIP), (SiglipTextModel, SIGLIP)]


@pytest.mark.parametrize(("model_class", "config"), LONE_VISION, ids=lambda x: getattr(x, "__name__", ""))
def test_lone_vision_towers(model_class, config):
    model = model_class(config.vision_config).eval()
    before = model(images())
    adapted = get_peft_model(model, CPEClipConfig(towers="vision")).eval()
    after = adapted(images())
    assert after.last_hidden_state.shape == before.last_hidden_state.shape
    assert not torch.equal(after.last_hidden_state, before.last_hidden_state)
    with adapted.disable_adapter():
        assert torch.equal(adapted(images()).last_hidden_state, before.last_hidden_state)
    with pytest.raises(ValueError, match="no text tower"):
        get_peft_model(model_class(config.vision_config), CPEClipConfig())


@pytest.mark.parametrize(("model_class", "config"), LONE_TEXT, ids=lambda x: getattr(x, "__name__", ""))
def test_lone_text_towers(model_class, config):
    model = model_class(config.text_config).eval()
    ids = two_towers.tokenizer(bos=config is CLIP)(["w10."], padding="max_length", max_length=two_towers.CONTEXT, return_tensors="pt")
    before = model(input_ids=ids["input_ids"])[0]
    adapted = get_peft_model(model, CPEClipConfig(towers="text")).eval()
    assert not torch.equal(adapted(input_ids=ids["input_ids"])[0], before)
    with adapted.disable_adapter():
        assert torch.equal(adapted(input_ids=ids["input_ids"])[0], before)
    with pytest.raises(ValueError, match="no vision tower"):
        get_peft_model(model_class(config.text_config), CPEClipConfig())


def test_words_as_initial_values(tmp_path):
    plain = two_towers.base("clip")
    plain.save_pretrained(tmp_path)
    two_towers.tokenizer().save_pretrained(tmp_path)
    plain = CLIPModel.from_pretrained(tmp_path)
    config = CPEClipConfig(towers="text", num_prompt_tokens=4, init="words", init_text="a photo of a", init_seed=0)
    model = get_peft_model(plain, config)
    layer = plain.text_model.embeddings.token_embedding
    assert torch.equal(layer.cpe_clip_prompts["default"][0], layer.weight[[6, 7, 8, 6]])
    assert 0.01 < layer.cpe_clip_prompts["default"][1:].std() < 0.03
    words = nearest_tokens(layer, "default", two_towers.tokenizer(), k=2)
    assert [ranked[0] for ranked in words[0]] == ["a", "photo", "of", "a"] and len(words[0][0]) == 2
    model.save_pretrained(tmp_path / "adapter")
    assert model.peft_config["default"].init_token_ids == [6, 7, 8, 6]
    with pytest.raises(ValueError, match="has 4 tokens; num_prompt_tokens is 5"):
        get_peft_model(two_towers.base("clip"), CPEClipConfig(num_prompt_tokens=5, init="words", init_token_ids=[6, 7, 8, 6]))
    with pytest.raises(ValueError, match="Give init_token_ids"):
        get_peft_model(two_towers.base("open_clip"), CPEClipConfig(init="words", init_text="a photo"))


def test_initial_values_follow_their_own_seed():
    def prompts(seed, before):
        torch.manual_seed(before)
        model = get_peft_model(two_towers.base("clip", seed=0), CPEClipConfig(init_seed=seed))
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.equal(prompts(1, before=3), prompts(1, before=4))
    assert not torch.equal(prompts(1, before=3), prompts(2, before=3))
    bound = (6 / (32 * (2 + 3))) ** 0.5
    assert 0.9 * bound < prompts(1, 0)[: 3 * 2 * 32].abs().max() <= bound
