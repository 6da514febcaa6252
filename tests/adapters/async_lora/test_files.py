"""What is in an adapter file, and what comes back from it."""

from __future__ import annotations

import json

import pytest
import torch
from async_lora_students import PLAIN_HEAD, move, student, unfrozen_student
from coact_reference import FOLDER, Student, tensors
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file
from tiny import CLASSIFIERS, NAMES, SIZE, base, images
from transformers import ViTConfig, ViTForImageClassification, ViTModel

from hf_cl.adapters import AsyncLoraConfig


def loaded(folder, family="vit", **kwargs) -> PeftModel:
    return PeftModel.from_pretrained(base(family), folder, **kwargs).eval()


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("start", [4, -1])
def test_unfrozen_weights_are_saved_and_loaded_to_the_bit(family, start, tmp_path):
    """The classic complaint: weights that were unfrozen in the base are lost by save_pretrained."""
    model = unfrozen_student(family, unfreeze_from=start)
    want = model(images()).logits
    model.base_model.update_teacher()
    model.base_model.keep("base", "base_teacher")
    model.save_pretrained(tmp_path)
    for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        assert torch.equal(loaded(tmp_path, family, **options)(images()).logits, want), options
    plain = base(family)
    plain.load_adapter(str(tmp_path))
    assert torch.equal(plain(images()).logits, want)


@pytest.mark.parametrize(
    ("change", "start", "message"),
    [
        ({"intermediate_size": 128}, 4, r"layers\.4\.mlp\.fc1\.async_lora_copy\.bias is floating \[64\].*describes has floating \[128\]"),
        (
            {"patch_size": 16},
            -1,
            r"patch_embeddings\.projection\.weight is floating \[32, 3, 8, 8\].*describes has floating \[32, 3, 16, 16\]",
        ),
        ({"hidden_size": 64}, 4, r"made for vit \(width 32, 6 layers\); this base is vit \(width 64, 6 layers\)"),
    ],
)
def test_a_base_of_another_shape_is_refused(change, start, message, tmp_path):
    unfrozen_student(unfreeze_from=start).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(ViTForImageClassification(ViTConfig(**{**SIZE, **change})), tmp_path)


def test_resting_copies_are_not_saved(tmp_path):
    model = student()
    move(model)  # nobody reads them
    want = model(images()).logits
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert len(saved) == 6 * 2 * 2 + 1 and not any("copy" in name for name in saved)
    for options in ({}, {"is_trainable": True}):  # no warning of missing keys
        assert torch.equal(loaded(tmp_path, **options)(images()).logits, want)


def test_the_fixtures_file():
    """52 tensors = 16 of LoRA, 34 copies, 2 of the pooler; and the head rows beside them."""
    model = Student(10).model
    model.base_model.unfreeze()
    from peft import get_peft_model_state_dict

    saved = {name.removeprefix("base_model.model.") for name in get_peft_model_state_dict(model)}
    assert saved == tensors("step2").keys() and len(saved) == 53


def test_a_second_adapter_with_copies_of_its_own(tmp_path):
    model = unfrozen_student()
    first = model(images()).logits
    config = AsyncLoraConfig(r=2, lora_dropout=0.0, unfreeze_from=-1, class_names=NAMES[:2], head=PLAIN_HEAD)
    model.add_adapter("other", config)
    model.set_adapter("other")
    model.base_model.unfreeze()
    move(model.eval(), (".other.",))
    other = model(images()).logits
    assert torch.equal(model(images()).logits, other) and not torch.equal(other, first[:, :2])
    model.set_adapter("default")
    assert torch.equal(model(images()).logits, first)
    model.save_pretrained(tmp_path)
    assert torch.equal(loaded(tmp_path / "other")(images()).logits, other)
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")  # the embeddings belong to the other alone
    assert torch.equal(model(images()).logits, other) and model.active_adapters == ["other"]
    assert list(model.base_model.states) == ["other"]


def test_deleting_the_only_adapter_with_copies_of_a_module():
    model = unfrozen_student(unfreeze_from=-1)
    model.add_adapter("other", AsyncLoraConfig(r=2, lora_dropout=0.0, class_names=NAMES[:2], head=PLAIN_HEAD))
    model.set_adapter("other")
    want = model.eval()(images()).logits
    model.set_adapter("default")
    with pytest.warns(UserWarning, match="Setting active adapter to other"):
        model.delete_adapter("default")
    assert model.active_adapters == ["other"] and torch.equal(model(images()).logits, want)
    assert model.config.num_labels == 2


def test_injection_by_the_keys_of_a_file(tmp_path):
    model = unfrozen_student(unfreeze_from=-1, layers_to_transform=[1, 3])
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    config = AsyncLoraConfig.from_pretrained(tmp_path)
    plain = inject_adapter_in_model(config, base("vit"), state_dict={k.removeprefix("base_model.model."): t for k, t in saved.items()})
    found = {name for name, _ in plain.named_parameters() if "async_lora_" in name}
    expected = {name.removeprefix("base_model.model.") for name, _ in model.named_parameters() if "async_lora_" in name}
    assert found == expected


# The pooler
def test_the_pooler_is_the_official_embedding():
    """`ViTModel`'s pooler output, which `ViTForImageClassification` does not have."""
    found = Student(3)
    pixels = images()
    features, logits, embedding, _ = found.classifier(pixels)
    reference = ViTModel.from_pretrained(FOLDER / "tiny_vit").eval()(pixels)
    torch.testing.assert_close(embedding, reference.pooler_output)
    torch.testing.assert_close(features, reference.last_hidden_state[:, 0])
    torch.testing.assert_close(logits, embedding @ found.head.weight.T)


def test_an_adapter_with_pooler_loads_on_a_base_whose_checkpoint_has_none(tmp_path):
    found = Student(3)
    pixels = images()
    with torch.no_grad():
        found.head.pooler.weight.mul_(1.5)
    want = found.model(pixels).logits
    found.model.save_pretrained(tmp_path / "adapter")
    ViTForImageClassification.from_pretrained(FOLDER / "tiny_vit", num_labels=2).save_pretrained(tmp_path / "base")
    for options in ({}, {"is_trainable": True}, {"low_cpu_mem_usage": True}):
        plain = ViTForImageClassification.from_pretrained(tmp_path / "base").eval()
        model = PeftModel.from_pretrained(plain, tmp_path / "adapter", **options).eval()
        assert torch.equal(model(pixels).logits, want)
    plain = ViTForImageClassification.from_pretrained(tmp_path / "base").eval()
    plain.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(plain(pixels).logits, want)


def test_the_pretrained_role_needs_the_pretrained_pooler(tmp_path):
    Student(3).model.save_pretrained(tmp_path / "adapter")
    ViTForImageClassification.from_pretrained(FOLDER / "tiny_vit", num_labels=2).save_pretrained(tmp_path / "base")
    model = PeftModel.from_pretrained(ViTForImageClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    with pytest.raises(ValueError, match="is not known"), model.base_model.role("pretrained"):
        pass
    model = PeftModel.from_pretrained(
        ViTForImageClassification.from_pretrained(FOLDER / "tiny_vit"), tmp_path / "adapter", is_trainable=True
    )
    with model.base_model.role("pretrained"):
        pass


def test_a_checkpoint_in_shards(tmp_path):
    ViTModel.from_pretrained(FOLDER / "tiny_vit").save_pretrained(tmp_path, max_shard_size="40KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = get_peft_model(ViTForImageClassification.from_pretrained(tmp_path), AsyncLoraConfig(class_names=NAMES[:3]))
    expected = load_file(FOLDER / "tiny_vit" / "model.safetensors")
    head = model.base_model.head_wrapper().head("default")
    assert torch.equal(head.pooler.weight, expected["pooler.dense.weight"]) and torch.equal(head.pooler.bias, expected["pooler.dense.bias"])


@pytest.mark.parametrize("family", ["vit", "dinov2", "clip_vision"])
def test_a_pooler_that_is_not_there(family):
    plain = base(family)
    with pytest.raises(
        ValueError, match=r"no checkpoint with one.*--head '\{type: cosine\}' of the command, head=\{\"type\": \"cosine\"\} in Python"
    ):
        get_peft_model(plain, AsyncLoraConfig(class_names=NAMES[:3]))
    assert not any("async_lora" in name or "modules_to_save" in name for name, _ in plain.named_modules())  # refused before injection


def test_all_that_does_not_fit_is_said_at_once():
    with pytest.raises(ValueError, match="no checkpoint with one") as error:
        get_peft_model(base("vit"), AsyncLoraConfig(class_names=NAMES[:3], unfreeze_from=40, layers_to_transform=[1, 77]))
    assert [line.split()[0] for line in str(error.value).splitlines()] == ["The", "unfreeze_from", "layers_to_transform"]
    assert "blocks 0 to 5; last is the last of them" in str(error.value)


def test_the_last_block_by_its_name(tmp_path):
    config = AsyncLoraConfig(class_names=NAMES[:3], unfreeze_from="last", head=dict(PLAIN_HEAD))
    model = get_peft_model(base("vit"), config)
    assert model.peft_config["default"].unfreeze_from == 5
    copies = {name.split(".async_lora_copy")[0] for name, _ in model.named_parameters() if ".async_lora_copy." in name}
    assert all(".layers.5" in name or "layernorm" in name for name in copies), copies
    model.save_pretrained(tmp_path)
    assert PeftModel.from_pretrained(base("vit"), tmp_path).peft_config["default"].unfreeze_from == 5
    with pytest.raises(ValueError, match="must be a block, last, -1"):
        AsyncLoraConfig(unfreeze_from="first")


# Stock LoRA
def test_to_lora_computes_the_same(tmp_path):
    model = student(unfreeze_from=5)
    want = model(images()).logits
    model.base_model.to_lora(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA" and isinstance(LoraConfig.from_pretrained(tmp_path), LoraConfig)
    stock = PeftModel.from_pretrained(base("vit", labels=3), tmp_path).eval()
    torch.testing.assert_close(stock(images()).logits, want, atol=1e-6, rtol=0)


def test_to_lora_leaves_other_heads_out(tmp_path, caplog):
    model = student(head={"type": "cosine"})
    model.base_model.to_lora(tmp_path)
    assert "no plain linear layer" in caplog.text
    stock = PeftModel.from_pretrained(base("vit"), tmp_path).eval()
    torch.testing.assert_close(
        stock.get_base_model().vit(images()).last_hidden_state, model.get_base_model().vit(images()).last_hidden_state, atol=1e-6, rtol=0
    )


def test_to_lora_refuses_copies(tmp_path):
    with pytest.raises(ValueError, match="merge_and_unload"):
        unfrozen_student().base_model.to_lora(tmp_path)
