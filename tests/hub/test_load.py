"""From an adapter to names for images: found wherever it is, the same numbers on every way, and a sentence where something is missing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tiny
import torch
import two_towers
from example_run import files_of, make_run
from huggingface_hub import constants
from loopback_hub import Account
from peft import PeftModel, get_peft_model
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, CLIPImageProcessor, ViTImageProcessor, pipeline

import hf_cl
from hf_cl.adapters import CPEClipConfig
from hf_cl.heads.stablemax import stablemax
from hf_cl.hub.access import HubError
from hf_cl.hub.load import load
from hf_cl.pictures import to_rgb


def pictures(count=5, mode="RGB"):
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (40, 30 + i, 3), dtype=np.uint8)).convert(mode) for i in range(count)]


@pytest.fixture(scope="module")
def local(tmp_path_factory, base_folder):
    """A run whose base is a folder here."""
    return make_run(tmp_path_factory.mktemp("local") / "run", base_name=str(base_folder))


@pytest.fixture
def on_the_hub(hub, run, base_folder):
    """The run's sessions as revisions of `me/photos`, its base as `me/base`."""
    hub.put("me/base", files_of(base_folder))
    for k in range(3):
        hub.put("me/photos", files_of(run / "adapters" / f"session-{k}"))
        hub.repositories["me/photos"].tags[f"session-{k}"] = hub.repositories["me/photos"].commits[-1].oid
    return hub


def test_from_the_hub_by_revision(on_the_hub, local):
    for k, revision in ((1, "session-1"), (2, None)):
        there, here = load("me/photos", revision=revision), load(local / "adapters" / f"session-{k}")
        assert there.class_names == here.class_names and len(here.class_names) == (5, 7)[k - 1]
        assert torch.equal(there.logits(pictures()), here.logits(pictures()))
    assert hf_cl.load is load


def test_what_is_cached_needs_no_network(on_the_hub, monkeypatch):
    want = load("me/photos", revision="session-1").logits(pictures())
    asked = len(on_the_hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(load("me/photos", revision="session-1").logits(pictures()), want)
    assert len(on_the_hub.requests) == asked
    with pytest.raises(HubError, match=r"me/other is not on this machine, and HF_HUB_OFFLINE is set. Load it once with a network"):
        load("me/other")


def test_only_what_an_adapter_needs_is_fetched(on_the_hub, run, tmp_path):
    on_the_hub.put("me/photos", {"adapter_model.bin": b"pickle", "model.safetensors": b"big", "code.py": b"", "report.png": b""})
    load("me/photos")
    names = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert "adapter_model.safetensors" in names
    assert not names & {"adapter_model.bin", "code.py", "report.png"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hub: hub.repositories.clear(), r"loading me/photos at revision session-1: there is no such repository or revision \(404\)"),
        (lambda hub: hub.repositories["me/photos"].tags.clear(), r"there is no such repository or revision \(404\)"),
        (lambda hub: setattr(hub.repositories["me/photos"], "private", True), r"or the token may not see it. Check the name and HF_TOKEN"),
        (lambda hub: setattr(hub, "interrupt", lambda n, method, path: 403), r"the token may not do that \(403\)"),
        (lambda hub: setattr(hub, "interrupt", lambda n, method, path: 401), r"does not know the token \(401\)|no such repository"),
        (lambda hub: setattr(hub, "interrupt", lambda n, method, path: 429), r"too many requests \(429\)"),
        (lambda hub: setattr(hub, "interrupt", lambda n, method, path: 500), r"it is in trouble \(status 500 at http"),
        (lambda hub: setattr(hub, "interrupt", lambda n, method, path: "drop"), "no connection"),
        (
            lambda hub: hub.files("me/photos", "session-1").update({"preprocessor_config.json": b"{"}),
            "has no image processor that can be read",
        ),
        (lambda hub: hub.repositories["me/photos"].at("session-1").files.pop("adapter_model.safetensors"), "it has no adapter_model"),
        (lambda hub: hub.repositories["me/photos"].at("session-1").files.update({"adapter_config.json": b"{"}), "is not valid JSON"),
        (
            lambda hub: hub.repositories["me/photos"].at("session-1").files.update({"adapter_config.json": b"{}"}),
            "peft_type is 'None', which neither peft nor hf_cl knows",
        ),
    ],
)
def test_what_the_hub_does_not_give_is_said(on_the_hub, change, message):
    on_the_hub.accounts["hf_loopback"] = Account(name="stranger")
    change(on_the_hub)
    with pytest.raises(ValueError, match=message) as failure:
        load("me/photos", revision="session-1")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/here/x", "There is no folder 'nowhere/here/x'"),
        ("./x", "There is no folder"),
        ("photos", "a Hub id has the form owner/name"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(ValueError, match=message):
        load(name)


def test_a_run_folder_means_its_last_session(local, tmp_path):
    assert torch.equal(load(local).logits(pictures()), load(local / "adapters" / "session-2").logits(pictures()))
    (tmp_path / "adapters").mkdir()
    with pytest.raises(ValueError, match="no session has ended yet"):
        load(tmp_path)


def test_a_base_that_has_moved(local, base_folder, tmp_path):
    moved = shutil.copytree(local / "adapters" / "session-0", tmp_path / "moved")
    config = (moved / "adapter_config.json").read_text().replace(str(base_folder), "/elsewhere/vit")
    (moved / "adapter_config.json").write_text(config)
    with pytest.raises(ValueError, match="No backbone '/elsewhere/vit'"):
        load(moved)
    assert len(load(moved, base_model=str(base_folder)).class_names) == 3


def test_the_demo_base_is_found_wherever_hf_cl_is_installed(tmp_path):
    from hf_cl.backbones import load_backbone

    config = tiny.ADAPTERS["ONE_PROMPT"](class_names=["a", "b"], classes_per_session=[2])
    model = get_peft_model(load_backbone("demo"), config)
    model.peft_config["default"].base_model_name_or_path = "/another/environment/hf_cl/demo/vit_tiny_demo"
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    hf_cl.load_processor("demo").save_pretrained(tmp_path)
    assert load(tmp_path).class_names == ["a", "b"]


# Predicting
def test_predictions_are_softmax_of_the_model_and_do_not_depend_on_the_batch(local, base_folder):
    classifier = load(local)
    whole, single = classifier.predict(pictures(), top_k=99), classifier.predict(pictures(), top_k=99, batch_size=1)
    assert [len(best) for best in whole] == [7] * 5
    for a, b in zip(whole, single, strict=True):
        assert {p.name: p.score for p in a} == pytest.approx({p.name: p.score for p in b}, abs=1e-5)
        assert sum(p.score for p in a) == pytest.approx(1, abs=1e-5)
        assert [p.score for p in a] == sorted((p.score for p in a), reverse=True)
    assert classifier.predict([]) == []


def test_the_forward_runs_once_per_batch(local):
    classifier, sizes = load(local), []
    classifier.model.get_base_model().register_forward_hook(
        lambda module, args, kwargs, out: sizes.append(len(out.logits)), with_kwargs=True
    )
    classifier.predict(pictures(), batch_size=2)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "I;16"])
def test_pictures_of_any_mode_are_read_as_in_training(local, tmp_path, mode):
    image = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50) if mode == "I;16" else pictures(1)[0].convert(mode)
    if mode in ("RGBA", "LA"):
        image.putalpha(90)
    image.save(tmp_path / "x.png")
    classifier = load(local)
    want = classifier.logits([to_rgb(Image.open(tmp_path / "x.png"))])
    assert torch.equal(classifier.logits([Image.open(tmp_path / "x.png")]), want)
    assert classifier.predict([tmp_path / "x.png"], top_k=1)[0][0].score == pytest.approx(want.softmax(-1).max().item())


def test_mistakes_are_named(local, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    classifier = load(local)
    for call, message in (
        (lambda: classifier.predict([tmp_path / "text.jpg"]), r"text.jpg cannot be read as an image"),
        (lambda: classifier.predict([tmp_path / "none.jpg"]), r"none.jpg cannot be read as an image"),
        (lambda: classifier.predict(pictures(), top_k=0), "top_k and batch_size must be at least 1"),
        (lambda: classifier.predict(tmp_path / "x.png"), r"x\.png cannot be read as an image: No such file"),
        (lambda: classifier.predict(3), "int is no picture"),
        (lambda: classifier.predict([3]), "item 0 is int and no picture"),
        (lambda: classifier.predict(tmp_path / "*.gif"), "No file fits"),
        (lambda: load(local, device="gpu"), "'gpu' is no device; say cpu, cuda or cuda:1"),
        (lambda: load(local, dtype="float8"), "dtype must be one of float32, float16, bfloat16, got 'float8'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(local):
    with pytest.raises(ValueError, match="There is no GPU that torch can use"):
        load(local, device="cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(local):
    on_gpu, on_cpu = load(local), load(local, device="cpu")
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.logits(pictures()).cpu(), on_cpu.logits(pictures()), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_a_base_in_half_precision(local, dtype):
    half, full = load(local, dtype=dtype), load(local)
    kinds = {name: p.dtype for name, p in half.model.named_parameters()}
    assert {kind for name, kind in kinds.items() if "default" not in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if "default" in name} == {torch.float32}
    assert half.logits(pictures()).dtype == torch.float32
    torch.testing.assert_close(half.logits(pictures()), full.logits(pictures()), atol=0.1, rtol=0.1)


# transformers' own ways
def scores(rows):
    return {row["label"]: row["score"] for row in rows}


def test_the_pipeline_gives_the_same_scores(local):
    classifier, (image, *_) = load(local), pictures()
    want = {p.name: p.score for p in classifier.predict([image], top_k=7)[0]}
    processor = AutoImageProcessor.from_pretrained(local / "adapters" / "session-2")
    for model in (str(local / "adapters" / "session-2"), classifier.model.get_base_model()):
        classify = pipeline("image-classification", model=model, image_processor=processor)
        assert scores(classify(image, top_k=7)) == pytest.approx(want, abs=1e-4)


def test_the_pipeline_by_name_alone_takes_the_base_s_processor(local):
    """What the card warns of. Where this fails, transformers has changed, and card and documents can drop their warning."""
    classifier, (image, *_) = load(local), pictures()
    want = {p.name: p.score for p in classifier.predict([image], top_k=7)[0]}
    classify = pipeline("image-classification", model=str(local / "adapters" / "session-2"))
    assert scores(classify(image, top_k=7)) != pytest.approx(want, abs=1e-4)


def test_the_pipeline_from_the_hub(on_the_hub):
    want = {p.name: p.score for p in load("me/photos").predict(pictures(1), top_k=7)[0]}
    processor = AutoImageProcessor.from_pretrained("me/photos")
    classify = pipeline("image-classification", model="me/photos", image_processor=processor)
    assert scores(classify(pictures(1)[0], top_k=7)) == pytest.approx(want, abs=1e-4)
    base = AutoModelForImageClassification.from_pretrained("me/base")
    model = PeftModel.from_pretrained(base, "me/photos", revision="session-2").eval()
    classify = pipeline("image-classification", model=model.get_base_model(), image_processor=processor)
    assert scores(classify(pictures(1)[0], top_k=7)) == pytest.approx(want, abs=1e-4)


# Class names as the head
@pytest.fixture
def by_text(tmp_path):
    """A CLIP base with prompts in both towers, class names as its head."""
    two_towers.base("clip").save_pretrained(tmp_path / "base")
    for folder in ("base", "adapter"):
        two_towers.tokenizer_of("clip").save_pretrained(tmp_path / folder)
        CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path / folder)
    head = {"type": "text", "template": "{}.", "logit_scale": "model"}
    model = get_peft_model(two_towers.base("clip"), CPEClipConfig(class_names=["w10", "w11 w12", "w13"], init_seed=1, head=head))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_texts_are_encoded_once(by_text):
    classifier, encoded = load(by_text), []
    classifier.model.get_base_model().text_model.register_forward_hook(lambda *args: encoded.append(1))
    first = classifier.predict(pictures(), batch_size=2)
    assert classifier.predict(pictures(), batch_size=2) == first
    assert len(encoded) == 1


def test_the_zero_shot_pipeline_gives_the_same_scores(by_text):
    classifier, (image, *_) = load(by_text), pictures()
    want = {p.name: p.score for p in classifier.predict([image])[0]}
    classify = pipeline(
        "zero-shot-image-classification",
        model=classifier.model.get_base_model(),
        tokenizer=classifier.tokenizer,
        image_processor=classifier.processor,
    )
    found = scores(classify(image, candidate_labels=classifier.class_names, hypothesis_template="{}."))
    assert found == pytest.approx(want, abs=1e-4)


def test_an_adapter_that_peft_saved_gets_the_processor_of_its_base(local, base_folder, tmp_path, caplog):
    saved = shutil.copytree(local / "adapters" / "session-1", tmp_path / "saved")
    (saved / "preprocessor_config.json").unlink()
    assert load(saved).processor.to_dict() == hf_cl.load_processor(str(base_folder)).to_dict()
    (said,) = [record.getMessage() for record in caplog.records if record.name == "hf_cl.hub.classifier"]
    assert "has no image processor beside it" in said


def test_predictions_show_the_probabilities_of_the_head(tmp_path):
    base = tiny.base("vit")
    base.save_pretrained(tmp_path / "base")
    head = {"type": "linear", "probability": "stablemax"}
    model = get_peft_model(
        AutoModelForImageClassification.from_pretrained(tmp_path / "base"), tiny.ADAPTERS["GLAD"](class_names=["a", "b"], head=head)
    )
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(tmp_path / "adapter")
    classifier, (picture,) = load(tmp_path / "adapter"), pictures(1)
    logits = classifier.logits([picture])
    want = stablemax(logits)[0]
    found = {row.name: row.score for row in classifier.predict([picture])[0]}
    assert [found["a"], found["b"]] == pytest.approx(want.tolist()) and not torch.allclose(want, logits.softmax(-1)[0])
