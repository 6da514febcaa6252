"""`clip_fusion` from pictures to an adapter that needs no text tower, on a tiny CLIP."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clip_runs import NAMES, write_base, write_photos
from peft import PeftModel
from processes import run as start
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from hf_cl import load
from hf_cl.adapters import GladConfig
from hf_cl.backbones import ClipClassifier, load_tokenizer, load_two_towers
from hf_cl.heads import GaussianHead
from hf_cl.methods import METHODS, clip_fusion
from hf_cl.run import parse_settings, run

FRESH = Path(__file__).parents[1] / "fresh_reload.py"
FLAGS = [
    "--num_base_classes=2",
    "--classes_per_session=2",
    "--class_order=natural",
    "--batch_size=8",
    "--eval_batch_size=8",
    "--augmentation=none",
    "--cpu",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A base and six classes of pictures."""
    root = tmp_path_factory.mktemp("fusion")
    write_base(root / "base")
    write_photos(root / "photos")
    return root


def trained(tiny: Path, folder: Path, *flags: str) -> Path:
    words = [f"--backbone={tiny / 'base'}", f"--dataset={tiny / 'photos'}", *FLAGS, f"--output_dir={folder}", *flags]
    run(parse_settings(METHODS["clip_fusion"], "clip_fusion", words))
    return folder


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory) -> Path:
    return trained(tiny, tmp_path_factory.mktemp("whole") / "run")


def tensors(folder: Path, session: int) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors")


def test_the_adapter_holds_what_the_text_tower_says(tiny, whole):
    saved = tensors(whole, 2)
    rows = next(tensor for name, tensor in saved.items() if name.endswith("texts.rows"))
    projection = next(tensor for name, tensor in saved.items() if name.endswith("texts.projection"))
    model, tokenizer = load_two_towers(str(tiny / "base")).eval(), load_tokenizer(str(tiny / "base"))
    config = GladConfig(class_names=list(NAMES), head={"type": "text"})
    with torch.no_grad():
        wanted = ClipClassifier(model, config, tokenizer).eval().head.text_features(range(len(NAMES)))
    assert torch.allclose(rows, wanted, atol=1e-6) and torch.equal(projection, model.visual_projection.weight.detach())


def test_earlier_classes_keep_their_texts(whole):
    first, last = tensors(whole, 0), tensors(whole, 2)
    name = next(name for name in first if name.endswith("texts.rows"))
    assert torch.equal(first[name], last[name][:2])


def test_it_loads_without_the_text_tower(tiny, whole):
    adapter = whole / "adapters" / "session-2"
    classifier = load(adapter)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    base = AutoModelForImageClassification.from_pretrained(tiny / "base")
    assert not any("text_model" in name for name, _ in base.named_modules())
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
        assert torch.equal(logits, classifier.classifier.outputs(pixels).logits)
    assert logits.shape == (3, 6) and bool(logits.isfinite().all()) and model.config.id2label[5] == NAMES[5]
    results = json.loads((whole / "results.json").read_text())
    assert results["metrics"]["final_accuracy"] >= 0.5  # greys of six classes; one in six by chance


def test_a_run_that_goes_on_is_the_one_that_did_not_stop(tiny, whole, tmp_path):
    folder = trained(tiny, tmp_path / "run")
    trained(tiny, folder, "--resume=auto")
    assert all(torch.equal(tensor, tensors(folder, 2)[name]) for name, tensor in tensors(whole, 2).items())


class Killed(Exception):
    pass


def test_a_run_that_was_killed_ends_with_the_same_bits(tiny, whole, tmp_path, monkeypatch):
    end = GaussianHead.end_session

    def dies(self, trainer, session):
        if session.id == 1:
            raise Killed
        end(self, trainer, session)

    monkeypatch.setattr(GaussianHead, "end_session", dies)
    with pytest.raises(Killed):
        trained(tiny, tmp_path / "run")
    monkeypatch.undo()
    folder = trained(tiny, tmp_path / "run", "--resume=auto")
    for session in (1, 2):
        want, found = tensors(whole, session), tensors(folder, session)
        assert want.keys() == found.keys() and all(torch.equal(want[name], found[name]) for name in want)
    results = [json.loads((of / "results.json").read_text()) for of in (whole, folder)]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["accuracy_matrix"] == results[1]["accuracy_matrix"]


def test_a_fresh_process_gives_the_same_bits(tiny, whole, tmp_path):
    adapter, pixels = whole / "adapters" / "session-2", torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = load(adapter, device="cpu").classifier.outputs(pixels).logits
    save_file({"pixels": pixels, "want": want.contiguous()}, tmp_path / "reference.safetensors")
    done = start(FRESH, tiny / "base", adapter, tmp_path / "reference.safetensors", "image")
    assert done.status == 0, done.output[-2000:]


def test_what_is_refused(tiny, tmp_path):
    with pytest.raises(ValueError, match="its head is one with `text: scores` or `text: means`"):
        clip_fusion({"type": "gaussian", "pool": "pooled"})
    with pytest.raises(ValueError, match="The head reads class names too: take a CLIP or SigLIP model, such as `demo_clip`"):
        trained(tiny, tmp_path, "--backbone=demo")
