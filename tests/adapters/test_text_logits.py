"""`model(pixel_values=...)` of a base with two towers under a text head: logits over the class names, without input_ids."""

from __future__ import annotations

import copy
import inspect
import pickle

import clip_runs
import pytest
import torch
import torch.nn.functional as F
import two_towers
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import CLIPModel, Trainer, TrainingArguments, pipeline
from two_towers import NAMES, images

import hf_cl
from hf_cl.adapters import CPEClipConfig, GladConfig, OnePromptConfig
from hf_cl.backbones import ClipClassifier, load_tokenizer

HEAD = {"type": "text"}
KINDS = {
    "CPE_CLIP": lambda names: CPEClipConfig(class_names=names, init_seed=1),
    "GLAD": lambda names: GladConfig(class_names=names, lora_dropout=0.0),
    "ONE_PROMPT": lambda names: OnePromptConfig(class_names=names, layer_tokens={"0": 2, "2": 3}, head=dict(HEAD)),
}


def moved(model: PeftModel) -> PeftModel:
    """Away from where the adapter does nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model.eval()


def adapted(family: str = "clip", kind: str = "CPE_CLIP", names: list[str] | None = None) -> PeftModel:
    model = moved(get_peft_model(two_towers.base(family), KINDS[kind](list(names or NAMES))))
    hf_cl.set_tokenizer(model, two_towers.tokenizer_of(family))
    return model


def reference(model: PeftModel, family: str, pixels: torch.Tensor, adapter: str = "default") -> torch.Tensor:
    tokenizer = two_towers.tokenizer_of(family)
    return ClipClassifier(model.get_base_model(), model.peft_config[adapter], tokenizer).eval()(pixels)[1]


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return clip_runs.write_base(tmp_path_factory.mktemp("named") / "base")


@pytest.mark.parametrize(
    ("family", "kind"),
    [(family, "CPE_CLIP") for family in two_towers.FAMILIES] + [("clip", "GLAD"), ("open_clip", "GLAD"), ("siglip", "ONE_PROMPT")],
)
def test_logits_are_those_of_the_loops_classifier(family, kind):
    model = adapted(family, kind)
    labels = torch.tensor([0, 4, 2, 2])
    with torch.no_grad():
        out = model(pixel_values=images(), labels=labels)
        want = reference(model, family, images())
    assert torch.equal(out.logits, want) and torch.equal(out.loss, F.cross_entropy(want, labels))
    halves = [model(pixel_values=images()[i : i + 2], labels=labels[i : i + 2], num_items_in_batch=4).loss for i in (0, 2)]
    torch.testing.assert_close(sum(halves).detach(), out.loss, atol=1e-3, rtol=0)  # as Trainer counts under accumulation
    assert model(pixel_values=images()).loss is None
    first = model(pixel_values=images(), return_dict=False)[0]
    torch.testing.assert_close(first.detach(), want, atol=1e-3, rtol=0)
    model.train()(pixel_values=images(), labels=labels).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained and all(parameter.grad is not None for parameter in trained)


def test_with_input_ids_the_forward_is_the_models_own():
    model = adapted()
    texts = two_towers.tokenizer()(["a w10", "a w13"], return_tensors="pt")
    own = CLIPModel.forward(model.get_base_model(), pixel_values=images(), **texts)
    for given in (model(pixel_values=images(), **texts), model(texts["input_ids"], images(), texts["attention_mask"])):
        assert torch.equal(given.logits_per_image, own.logits_per_image)


def test_switched_off_it_is_zero_shot_over_the_same_names():
    model, bare = adapted("clip", "GLAD"), two_towers.base("clip")
    texts = two_towers.tokenizer()([f"a photo of a {name.replace('_', ' ')}." for name in NAMES], return_tensors="pt", padding=True)
    with torch.no_grad():
        image, text = bare.get_image_features(images()).pooler_output, bare.get_text_features(texts["input_ids"]).pooler_output
        want = 100 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        with model.disable_adapter():
            torch.testing.assert_close(model(pixel_values=images()).logits, want, atol=1e-4, rtol=0)
        assert not torch.allclose(model(pixel_values=images()).logits, want, atol=1e-2)


def test_labels_follow_the_adapter():
    model = adapted(names=NAMES[:2])
    base = model.get_base_model()
    own = dict(two_towers.base("clip").config.id2label)
    assert base.config.id2label == {0: "w10", 1: "w11 w12"}
    model(pixel_values=images())
    model.base_model.grow("default", NAMES[2:4])
    assert base.config.id2label == dict(enumerate(NAMES[:4])) and base.config.num_labels == 4
    assert torch.equal(model(pixel_values=images()).logits, reference(model, "clip", images()))
    model.add_adapter("other", CPEClipConfig(class_names=["w40", "w41", "w42"], init_seed=3))
    model.set_adapter("other")
    assert base.config.label2id == {"w40": 0, "w41": 1, "w42": 2}
    assert torch.equal(model(pixel_values=images()).logits, reference(model, "clip", images(), "other"))
    with pytest.warns(UserWarning, match="Setting active adapter to default"):
        model.delete_adapter("other")
    assert base.config.id2label == dict(enumerate(NAMES[:4]))
    bare = model.unload()
    assert bare.config.id2label == own and "forward" not in vars(bare)
    with pytest.raises(ValueError, match="input_ids"):
        bare(pixel_values=images())


@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_calls_its_own_towers(again):
    model = adapted()
    want = model(pixel_values=images()).logits
    other = again(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(other(pixel_values=images()).logits, want)


def test_the_tokenizer_is_found_by_the_bases_name(base_folder, tmp_path):
    model = moved(get_peft_model(CLIPModel.from_pretrained(base_folder), KINDS["CPE_CLIP"](list(NAMES))))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(CLIPModel.from_pretrained(base_folder), tmp_path).eval()
    assert loaded.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        want = hf_cl.load(tmp_path, device="cpu").logits_of(images())
        assert torch.equal(loaded(pixel_values=images()).logits, want)
        by_transformers = CLIPModel.from_pretrained(base_folder)
        by_transformers.load_adapter(tmp_path)
        torch.testing.assert_close(by_transformers.eval()(pixel_values=images()).logits, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_without_a_tokenizer_a_sentence_says_how_to_give_one(family):
    model = get_peft_model(two_towers.base(family), KINDS["CPE_CLIP"](list(NAMES)))
    with pytest.raises(ValueError, match=r"the base has no name\. Give it once: hf_cl\.set_tokenizer\(model, tokenizer\)"):
        model(pixel_values=images())
    plain = get_peft_model(two_towers.base("clip"), CPEClipConfig())
    with pytest.raises(ValueError, match="no text head"):
        hf_cl.set_tokenizer(plain, two_towers.tokenizer())


def test_its_signature_is_for_trainer():
    names = list(inspect.signature(adapted().get_base_model().forward).parameters)
    assert {"pixel_values", "labels", "input_ids"} <= set(names) and names[-1] == "kwargs" and len(names) == len(set(names))


def test_trainer_and_pipeline(base_folder, tmp_path):
    model = get_peft_model(CLIPModel.from_pretrained(base_folder), KINDS["GLAD"](list(clip_runs.NAMES)))
    rows = [{"pixel_values": pixels, "labels": i % 6, "file": "dropped"} for i, pixels in enumerate(images(12))]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, per_device_train_batch_size=4, learning_rate=1e-2, use_cpu=True, report_to=[],
        label_names=["labels"], save_strategy="no", disable_tqdm=True, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.1

    classify = pipeline("image-classification", model=model.eval(), image_processor=clip_runs.processor(), device="cpu")
    found = {row["label"]: row["score"] for row in classify(Image.new("RGB", (40, 40), (200, 30, 90)), top_k=6)}
    pixels = clip_runs.processor()(images=Image.new("RGB", (40, 40), (200, 30, 90)), return_tensors="pt")["pixel_values"]
    tokens = load_tokenizer(str(base_folder))
    with torch.no_grad():
        want = ClipClassifier(model.get_base_model(), model.peft_config["default"], tokens).eval()(pixels)[1].softmax(-1)[0]
    assert found == pytest.approx(dict(zip(clip_runs.NAMES, want.tolist(), strict=True)), abs=1e-6)
