"""Exports give the adapter's logits without hf_cl, and what a form cannot express is refused by name."""

from __future__ import annotations

import copy
import itertools
import json
import subprocess
import sys

import fitted_heads
import numpy as np
import pytest
import tiny
import torch
import two_towers
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from typer.testing import CliRunner

from hf_cl.adapters import CPEClipConfig
from hf_cl.adapters.bases import PATCH_TOKENS
from hf_cl.cli import app
from hf_cl.heads import LinearHead, build_head
from hf_cl.hub import export as module
from hf_cl.hub.export import export
from hf_cl.hub.load import load

NAMES = ["ant", "bee <b>", "crab", "deer"]
MERGING = {"ASYNC_LORA": {"unfrozen": True}, "GLAD": {}, "SARA": {}}


def an_adapter(folder, kind, family="vit", head=None, fit=False, **changes):
    """An adapter with random values on a tiny base beside it; `fit`: its head is fitted to random features."""
    tiny.base(family).save_pretrained(folder / "base")
    base = AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=2)
    config = tiny.ADAPTERS[kind](class_names=list(NAMES), head=dict(head or {"type": "linear"}), **changes)
    torch.manual_seed(1)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    if fit:
        labels = torch.arange(40) % len(NAMES)
        head = build_head(config.head, 32, 0)
        fitted_heads.run(head, [(torch.randn(40, 32) + 2 * torch.randn(len(NAMES), 32)[labels], labels)])
        model.base_model.head_wrapper().modules_to_save["default"] = head
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder / "adapter")
    return folder / "adapter"


def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def pixels_of(folder):
    return AutoImageProcessor.from_pretrained(folder)(images=image(), return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize(
    ("kind", "family"), [("ASYNC_LORA", "vit"), ("GLAD", "dinov2"), ("GLAD", "timm"), ("SARA", "vit"), ("SARA", "siglip_vision")]
)
def test_a_merged_model_needs_transformers_alone(kind, family, tmp_path):
    adapter = an_adapter(tmp_path, kind, family, **(MERGING[kind] if family == "vit" else {}))
    want = load(adapter).logits([image()])
    assert export(adapter, tmp_path / "out") == tmp_path / "out"
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert [model.config.id2label[i] for i in range(4)] == NAMES and not any(
        "lora" in name or "sara" in name for name in model.state_dict()
    )
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=pixels_of(tmp_path / "out")).logits, want, atol=1e-4, rtol=1e-4)
    bare = AutoModelForImageClassification.from_pretrained(tmp_path / "base", num_labels=4, ignore_mismatched_sizes=True).eval()
    assert not (tmp_path / "out" / "adapter_config.json").exists() and type(bare) is type(model)


FITTED = {"shared": {"type": "gaussian", "covariance": "shared"}, "ridge": {"type": "ridge"}}
ALONE = """
import sys
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

for folder in sys.argv[1:]:
    saved = load_file(f"{folder}/want.safetensors")
    model = AutoModelForImageClassification.from_pretrained(f"{folder}/out").eval()
    with torch.no_grad():
        found = model(pixel_values=saved["pixels"]).logits.log_softmax(-1)
    torch.testing.assert_close(found, saved["want"], atol=1e-5, rtol=1e-6)
assert not [name for name in sys.modules if name.startswith("hf_cl")]
"""


def test_fitted_heads_that_are_linear_fold_into_a_stock_model_to_the_log_probability(tmp_path):
    folders = []
    for name, (kind, changes) in itertools.product(FITTED, {"ONE_PROMPT": {"layer_tokens": {}}, "GLAD": {"temperature": 0.3}}.items()):
        folder = tmp_path / f"{name}-{kind}"
        adapter = an_adapter(folder, kind, head=FITTED[name], fit=True, **changes)
        classifier = load(adapter)
        pixels = tiny.images(8)
        with torch.no_grad():
            want = classifier.classifier.outputs(pixels).logits.log_softmax(-1)
        export(adapter, folder / "out")
        save_file({"pixels": pixels, "want": want}, folder / "want.safetensors")
        folders.append(str(folder))
    subprocess.run([sys.executable, "-c", ALONE, *folders], check=True, timeout=300)


def test_a_bare_merge_leaves_a_stock_layer_or_a_base_that_refuses_to_be_saved(tmp_path):
    adapter = an_adapter(tmp_path, "GLAD", head={"type": "linear", "bias": False})
    classifier = load(adapter)
    want = classifier.logits([image()])
    merged = classifier.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "plain")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pixel_values=pixels_of(adapter)).logits, want, atol=1e-4, rtol=1e-4)
    assert [again.config.id2label[i] for i in range(4)] == NAMES

    for kind, out in (("GLAD", "merge_and_unload"), ("ONE_PROMPT", "unload")):
        left = getattr(load(an_adapter(tmp_path / kind, kind, head={"type": "prototype"})).model, out)()
        for model in (left, copy.deepcopy(left)):
            with pytest.raises(ValueError, match=r"hf_cl's PrototypeHead, .* covariance: shared"):
                model.save_pretrained(tmp_path / kind / "bare")
        assert not (tmp_path / kind / "bare").exists()
        left.classifier = torch.nn.Linear(32, 4)
        left.save_pretrained(tmp_path / kind / "mine")


def test_a_head_without_bias_merges_too(tmp_path):
    adapter = an_adapter(tmp_path, "GLAD", head={"type": "linear", "bias": False})
    export(adapter, tmp_path / "out")
    assert not AutoModelForImageClassification.from_pretrained(tmp_path / "out").classifier.bias.any()


@pytest.mark.parametrize(
    ("kind", "head", "form", "message"),
    [
        ("ONE_PROMPT", None, "merged", "ONE_PROMPT cannot be merged: its prefix rows .* Export it as onnx"),
        (
            "GLAD",
            {"type": "prototype"},
            "merged",
            "a head of kind PrototypeHead, .* have a linear layer .* covariance: shared",
        ),
        ("SARA", {"type": "cosine"}, "merged", "has a head of kind CosineHead, .* or export it as onnx"),
        ("GLAD", {"type": "linear", "probability": "stablemax"}, "merged", "another normalisation than the softmax"),
        ("GLAD", {"type": "cosine"}, "lora", "has a head of kind CosineHead, and a stock LORA adapter can only"),
        ("ASYNC_LORA", {"type": "linear", "pooler": False, "bias": True}, "lora", "copies of unfrozen weights, which LoRA cannot express"),
        ("SARA", None, "lora", "SARA is no LoRA underneath; GLAD and ASYNC_LORA are"),
        ("SARA", None, "pickle", "The form of an export is one of merged, onnx, lora, truncated, small, not 'pickle'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(kind, head, form, message, tmp_path):
    adapter = an_adapter(tmp_path, kind, head=head)
    with pytest.raises(ValueError, match=message):
        export(adapter, tmp_path / "out", form)
    assert not (tmp_path / "out").exists()


def test_a_pooler_in_the_head_is_no_linear_layer(tmp_path):
    head = {"type": "linear", "bias": False, "pooler": True}
    adapter = an_adapter(tmp_path, "GLAD", head=head)
    with pytest.raises(ValueError, match="a head of kind PoolerHead"):
        export(adapter, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="holds something already"):
        export(tmp_path, tmp_path / "out")


def test_an_export_that_is_off_is_not_handed_out(tmp_path, monkeypatch):
    adapter = an_adapter(tmp_path, "GLAD")
    monkeypatch.setattr(LinearHead, "as_linear", lambda head: torch.nn.Linear(head.in_features, head.num_classes))
    with pytest.raises(RuntimeError, match="The merged model does not give what the adapter gives"):
        export(adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Stock LoRA
def test_glad_as_stock_lora(tmp_path):
    adapter = an_adapter(tmp_path, "GLAD", temperature=0.4)  # which goes into the rows
    want = load(adapter).logits([image()])
    export(adapter, tmp_path / "lora", "lora")
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base", num_labels=4, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(base, tmp_path / "lora").eval()
    assert type(model.peft_config["default"]) is LoraConfig
    with torch.no_grad():
        torch.testing.assert_close(model(pixel_values=pixels_of(tmp_path / "lora")).logits, want)


# ONNX
def test_onnx_gives_torch_s_logits_at_any_batch_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(**tiny.SIZE | {"num_hidden_layers": 2})).save_pretrained(tmp_path / "base")
    base = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(
        base,
        tiny.ADAPTERS["ONE_PROMPT"](class_names=list(NAMES), head={"type": "prototype"}, layer_tokens={0: 2, 1: 3}, temperature=0.2),
    )
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter, save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(adapter)
    want = load(adapter).logits([image()])
    result = CliRunner().invoke(app, ["export", str(adapter), str(tmp_path / "out"), "--format", "onnx"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]["1"] == "bee <b>"
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        batch = pixels_of(tmp_path / "out").repeat(count, 1, 1, 1)
        (found,) = session.run(["logits"], {"pixel_values": batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), want.repeat(count, 1), atol=1e-4, rtol=1e-4)


def test_onnx_reads_the_pooled_output_where_the_head_does(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    adapter = an_adapter(tmp_path, "ONE_PROMPT", "clip_vision", head={"type": "linear", "pool": "pooled"}, layer_tokens={}, temperature=0.5)
    want = load(adapter).logits([image()])
    export(adapter, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"pixel_values": pixels_of(tmp_path / "out").numpy()})
    torch.testing.assert_close(torch.from_numpy(found), want, atol=1e-4, rtol=1e-4)


def test_onnx_reads_the_patches_where_the_head_does(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    adapter = an_adapter(tmp_path, "GLAD", "vit", {"type": "maxsim", "vectors_per_class": 2, "out_dim": 16, "grid": 2})
    want = load(adapter).logits([image()])
    export(adapter, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"pixel_values": pixels_of(tmp_path / "out").numpy()})
    torch.testing.assert_close(torch.from_numpy(found), want, rtol=1e-4, atol=1e-4)
    for form, message in (("merged", "has a head of kind MaxSimHead"), ("lora", "has a head of kind MaxSimHead")):
        with pytest.raises(ValueError, match=message):
            export(adapter, tmp_path / form, form)


SCAN = {"type": "etf", "projector": "selective_scan", "num_classes_total": 6, "grid": 2, "scan": {"d_state": 4, "dt_rank": 4}}
TOKEN_HEADS = {"maxsim": {"type": "maxsim", "vectors_per_class": 2, "out_dim": 16, "aggregate": "lse"}, "etf": SCAN}


@pytest.mark.slow
@pytest.mark.parametrize("head", TOKEN_HEADS)
@pytest.mark.parametrize("family", PATCH_TOKENS)
def test_onnx_of_every_family_whose_patches_a_head_reads(family, head, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    kind, changes = ("GLAD", {}) if family != "vit" else ("ONE_PROMPT", {"layer_tokens": {0: 2}})
    adapter = an_adapter(tmp_path, kind, family, TOKEN_HEADS[head], **changes)
    want = load(adapter).logits([image()])
    export(adapter, tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"pixel_values": pixels_of(tmp_path / "out").numpy()})
    torch.testing.assert_close(torch.from_numpy(found), want, rtol=1e-4, atol=1e-4)


def test_onnx_holds_the_texts_of_a_text_head(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    base = two_towers.clip(text_layers=2, vision_layers=2)
    base.save_pretrained(tmp_path / "base")
    for folder in ("base", "adapter"):
        two_towers.tokenizer_of("clip").save_pretrained(tmp_path / folder)
        CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path / folder)
    head = {"type": "text", "template": "{}.", "logit_scale": "model"}
    model = get_peft_model(
        base, CPEClipConfig(class_names=["w10", "w11 w12", "w13"], init_seed=1, head=head, prompt_depth=2, temperature=2.5)
    )
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    want = load(tmp_path / "adapter").logits([image()])
    export(tmp_path / "adapter", tmp_path / "out", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"pixel_values": pixels_of(tmp_path / "out").numpy()})
    torch.testing.assert_close(torch.from_numpy(found), want, atol=1e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="CPE_CLIP cannot be merged: its prompts are tokens"):
        export(tmp_path / "adapter", tmp_path / "merged")


def test_onnx_without_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install '.\[onnx\]'"):
        export(tmp_path, tmp_path / "out", "onnx")
