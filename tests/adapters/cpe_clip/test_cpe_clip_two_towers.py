"""What CPE_CLIP promises on models with two towers: transformers' CLIP and SigLIP, open_clip's CLIP and CustomTextCLIP."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import two_towers
from peft import PeftModel, get_peft_model
from processes import run
from safetensors.torch import load_file, save_file
from transformers import AutoModel
from two_towers import NAMES, images

from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.cpe_clip.config import TEXT_HEAD
from hf_cl.backbones import ClipClassifier

everywhere = pytest.mark.parametrize("family", two_towers.FAMILIES)
modes = pytest.mark.parametrize("vision_mode", ["accumulate", "replace", "accumulate_same"])


def adapted(family: str, plain=None, **settings) -> PeftModel:
    config = CPEClipConfig(**{"class_names": list(NAMES), "init_seed": 3, **settings})
    return get_peft_model(two_towers.base(family) if plain is None else plain, config).eval()


def classifier(model: PeftModel, family: str) -> ClipClassifier:
    config = model.peft_config[model.active_adapter]
    return ClipClassifier(model.get_base_model(), config, two_towers.tokenizer_of(family)).eval()


@torch.no_grad()
def logits(model: PeftModel, family: str) -> torch.Tensor:
    return classifier(model, family)(images())[1]


def trainable(model) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def num_hooks(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@everywhere
@modes
def test_three_tensors_train_and_each_gets_a_gradient(family, vision_mode):
    model = adapted(family, vision_mode=vision_mode).train()
    assert sorted(name.split("cpe_clip_")[1] for name in trainable(model)) == [
        "proj.default.bias",
        "proj.default.weight",
        "prompts.default",
    ]
    torch.nn.functional.cross_entropy(classifier(model, family).train()(images())[1], torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable(model).values())
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    prompts = next(p for name, p in trainable(model).items() if "prompts" in name)
    assert (prompts.grad.flatten(1).norm(dim=1) > 0).all(), "a layer's prompts are not used"


@everywhere
def test_disabled_is_the_base_to_the_bit(family):
    config = CPEClipConfig(class_names=list(NAMES), head=dict(TEXT_HEAD))
    plain = ClipClassifier(two_towers.base(family), config, two_towers.tokenizer_of(family)).eval()
    with torch.no_grad():
        want = plain(images())[1]
    model = adapted(family)
    prompted = logits(model, family)
    assert (prompted - want).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(logits(model, family), want)
    assert torch.equal(logits(model, family), prompted)


@everywhere
def test_unload_leaves_nothing_behind(family):
    plain = two_towers.base(family)
    hooks, keys = num_hooks(plain), plain.state_dict().keys()
    model = adapted(family, plain)
    assert num_hooks(plain) > hooks
    unloaded = model.unload()
    assert num_hooks(unloaded) == hooks and unloaded.state_dict().keys() == keys
    again = adapted(family, unloaded)
    assert torch.equal(logits(again, family), logits(adapted(family), family))


@everywhere
def test_merging_is_refused(family):
    model = adapted(family)
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(NotImplementedError, match=r"unload\(\)"):
            merge()


@everywhere
def test_deepcopy_and_pickle_read_their_own_prompts(family):
    model = adapted(family)
    want = logits(model, family)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin, family), want)
        with torch.no_grad():
            for parameter in trainable(twin).values():
                parameter.add_(0.5)
        assert not torch.equal(logits(twin, family), want)
        assert torch.equal(logits(model, family), want)
        twin.unload()
        assert num_hooks(model) > num_hooks(two_towers.base(family))


@everywhere
def test_one_image_and_one_class_do_not_depend_on_their_batch(family):
    model = adapted(family)
    one = classifier(model, family)
    with torch.no_grad():
        together = one(images())[1]
        alone = torch.cat([one(image[None])[1] for image in images()])
        text = one.head.text_features(range(5))
        texts = torch.cat([one.head.text_features(range(i, i + 1)) for i in range(5)])
    torch.testing.assert_close(alone, together, atol=2e-4, rtol=0)  # logits are 100 times a cosine
    torch.testing.assert_close(texts, text, atol=1e-6, rtol=0)


@everywhere
@pytest.mark.parametrize("before", [True, False], ids=["before injection", "after injection"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(family, before, reentrant):
    plain = two_towers.base(family)
    if before:
        two_towers.enable_checkpointing(plain, reentrant)
    model = adapted(family, plain).train()
    if not before:
        two_towers.enable_checkpointing(plain, reentrant)
    reference = adapted(family).train()
    for each in (model, reference):
        torch.nn.functional.cross_entropy(classifier(each, family).train()(images())[1], torch.arange(4)).backward()
    for (name, p), q in zip(trainable(model).items(), trainable(reference).values(), strict=True):
        assert p.grad is not None, name
        torch.testing.assert_close(p.grad, q.grad, atol=1e-5, rtol=1e-4)


@everywhere
def test_half_precision_base_keeps_float32_prompts(family):
    model = adapted(family, two_towers.base(family).to(torch.bfloat16)).train()
    assert {p.dtype for p in trainable(model).values()} == {torch.float32}
    found = classifier(model, family).train()(images())[1]
    assert found.dtype == torch.float32 and found.isfinite().all()
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in trainable(model).values())


@everywhere
def test_bfloat16_autocast_stays_near(family):
    model = adapted(family)
    want = logits(model, family)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = logits(model, family)
    assert found.dtype == torch.float32
    assert (found - want).abs().max() < 0.1 * want.abs().max()  # a factor of 100 stands before bfloat16's third digit


@everywhere
def test_two_adapters_of_different_size(family):
    model = adapted(family)
    first = logits(model, family)
    model.add_adapter("other", CPEClipConfig(num_prompt_tokens=3, prompt_depth=1, vision_mode="replace", class_names=["w20", "w21"]))
    assert torch.equal(logits(model, family), first)
    model.set_adapter("other")
    assert logits(model, family).shape == (4, 2)
    assert all("other" in name for name in trainable(model))
    model.set_adapter("default")
    assert torch.equal(logits(model, family), first)
    with pytest.raises(ValueError, match="active at once"):
        model.base_model.set_adapter(["default", "other"])
    model.set_adapter("default")
    model.delete_adapter("other")
    assert torch.equal(logits(model, family), first)
    assert not [name for name, _ in model.named_parameters() if ".other" in name]
    model.delete_adapter("default")
    assert num_hooks(model) == num_hooks(two_towers.base(family))


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_mixed_batches_are_refused(family):
    model = adapted(family)
    with pytest.raises(NotImplementedError, match="adapter_names"):
        model(images(), torch.ones(4, two_towers.CONTEXT, dtype=torch.long), adapter_names=["default"] * 4)


def test_open_clip_equals_transformers():
    torch.manual_seed(0)
    ours = two_towers.clip(4, 4).eval()
    theirs = two_towers.to_open_clip(ours)
    for mode in ("accumulate", "replace", "accumulate_same"):
        found = [adapted(family, copy.deepcopy(m), vision_mode=mode) for family, m in (("clip", ours), ("open_clip", theirs))]
        torch.testing.assert_close(logits(found[1], "open_clip"), logits(found[0], "clip"), atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_eager_and_sdpa_agree(family):
    model = adapted(family)
    sdpa = logits(model, family)
    model.get_base_model().set_attn_implementation("eager")
    torch.testing.assert_close(logits(model, family), sdpa, atol=2e-4, rtol=0)


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_compile_gives_the_same_logits(family):
    model = classifier(adapted(family), family)
    with torch.no_grad():
        want = model(images())[1]
        torch.testing.assert_close(torch.compile(model, backend="eager")(images())[1], want, atol=2e-4, rtol=0)


@everywhere
def test_the_image_keeps_its_tokens(family):
    """Poolings over tokens and callers of the last hidden state see the image's own tokens alone."""
    model = adapted(family).get_base_model()
    seen = []
    layers = model.visual.transformer.resblocks if hasattr(model, "visual") else model.vision_model.encoder.layers
    layers[-1].register_forward_hook(lambda module, args, output: seen.append((args[0].shape[1], output.shape[1])))
    one = ClipClassifier(model, CPEClipConfig(class_names=list(NAMES), head={"type": "text"}), two_towers.tokenizer_of(family))
    one(images())
    own = 16 if family == "siglip" else 17
    assert seen == [(own + 2 * 3, own)]  # three layers of two prompts are there when the fourth layer runs


@pytest.mark.parametrize("eos", [two_towers.EOS, 2])
def test_texts_padded_to_the_context_give_the_same(eos):
    """Under both pooling rules of transformers: at the first EOS, and, with the historical EOS id 2, at the largest id."""
    plain = two_towers.base("clip")
    plain.text_model.eos_token_id = plain.text_model.config.eos_token_id = eos
    model = adapted("clip", plain).get_base_model()
    tokens, texts = two_towers.tokenizer(), ["w10.", "w11 w12."]
    short = tokens(texts, padding=True, return_tensors="pt")
    long = tokens(texts, padding="max_length", max_length=two_towers.CONTEXT, return_tensors="pt")
    want = model.get_text_features(short["input_ids"], short["attention_mask"]).pooler_output
    for mask in (long["attention_mask"], None):
        torch.testing.assert_close(model.get_text_features(long["input_ids"], mask).pooler_output, want, atol=1e-5, rtol=0)


@everywhere
def test_a_text_without_room_for_the_prompts_is_refused(family):
    """Of raw ids, too: dropping text without a word would give wrong features."""
    model = adapted(family).get_base_model()
    bos = [] if family in two_towers.WITHOUT_BOS else [two_towers.BOS]
    for words, fits in ((two_towers.CONTEXT - 5, True), (two_towers.CONTEXT - 2, False)):
        row = [*bos, *[10 + i for i in range(words - len(bos))], two_towers.EOS]
        ids = torch.tensor([row + [two_towers.EOS] * (two_towers.CONTEXT - len(row))])
        encode = (
            (lambda ids=ids: model.encode_text(ids))
            if hasattr(model, "visual")
            else (lambda ids=ids: model.get_text_features(input_ids=ids))
        )
        if fits:
            encode()
        else:
            with pytest.raises(ValueError, match="leaves no room for 2 prompts"):
                encode()


@pytest.mark.parametrize("argument", ["position_ids", "inputs_embeds"])
def test_positions_and_embeddings_of_ones_own_are_refused(argument):
    model = adapted("clip").get_base_model()
    with pytest.raises(ValueError, match="adapter disabled"):
        model.text_model(input_ids=torch.ones(1, 4, dtype=torch.long), **{argument: torch.arange(4)[None]})


def test_one_tower_alone_can_be_called():
    model = adapted("clip").get_base_model()
    model.get_image_features(pixel_values=images()).pooler_output.sum().backward()
    model.get_text_features(input_ids=torch.tensor([[62, 10, 63]])).pooler_output.sum().backward()


@everywhere
def test_adding_classes_changes_no_saved_tensor(family, tmp_path):
    model = adapted(family)
    one = classifier(model, family)
    model.save_pretrained(tmp_path / "before")
    two_towers.grow(one, ["w20", "w21 w22"])
    model.save_pretrained(tmp_path / "after")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("before", "after"))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert model.peft_config["default"].class_names == [*NAMES, "w20", "w21 w22"]
    assert model.peft_config["default"].classes_per_session == [5, 2]


GOLDEN_KEYS = {
    "clip": "text_model.embeddings.token_embedding",
    "siglip": "text_model.embeddings.token_embedding",
    "open_clip": "token_embedding",
    "custom_text": "text.token_embedding",
    "custom_text_last": "text.token_embedding",
}


@everywhere
def test_golden_keys_of_the_file(family, tmp_path):
    adapted(family).save_pretrained(tmp_path)
    keys = ("cpe_clip_prompts", "cpe_clip_proj.weight", "cpe_clip_proj.bias")
    assert set(load_file(tmp_path / "adapter_model.safetensors")) == {f"base_model.model.{GOLDEN_KEYS[family]}.{key}" for key in keys}


def test_reload_in_a_fresh_process_gives_the_same_bits(tmp_path):
    for family in two_towers.FAMILIES:
        folder = tmp_path / family
        plain = two_towers.base(family)
        if family in ("clip", "siglip"):
            plain.save_pretrained(folder / "base")
            plain = AutoModel.from_pretrained(folder / "base").eval()
        model = adapted(family, plain)
        with torch.no_grad():
            for parameter in trainable(model).values():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        one = classifier(model, family)
        two_towers.grow(one, ["w20"])
        model.save_pretrained(folder)
        two_towers.tokenizer_of(family).save_pretrained(folder)
        with torch.no_grad():
            save_file({"want": one(images())[1]}, folder / "reference.safetensors")
    done = run(Path(__file__).with_name("fresh_two_towers.py"), tmp_path)
    assert done.status == 0, done.output[-3000:]


def test_a_base_of_other_widths_is_refused(tmp_path):
    adapted("clip").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="text tower of width 32 with 3 layers; this base has one of width 32 with 5 layers"):
        PeftModel.from_pretrained(two_towers.clip(text_layers=5), tmp_path)
    with pytest.raises(ValueError, match=r"made for clip .*this base is siglip"):
        PeftModel.from_pretrained(two_towers.base("siglip"), tmp_path)
