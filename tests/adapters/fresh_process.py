"""Run by test_loading_routes in a process of its own: every route must give the logits of the process that saved, to the bit."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import AutoPeftModel, PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

import hf_cl  # noqa: F401 (registers the adapter types)


def check(ok: bool, what: str) -> None:
    if not ok:
        sys.exit(f"FAILED: {what}")


@torch.no_grad()
def main(folder: Path) -> None:
    saved = load_file(folder / "reference.safetensors")
    pixels, want, other = saved["pixels"], saved["want"], saved["other"]
    names = (folder / "names.txt").read_text().split("\n")
    base, first, second = str(folder / "base"), str(folder / "first"), str(folder / "second")

    identity = () if folder.name == "siglip_vision" else (0,)  # transformers 5.23 cannot build SigLIP's class without labels
    for labels in (*identity, 2, 5, 17):
        plain = AutoModelForImageClassification.from_pretrained(base, num_labels=labels, ignore_mismatched_sizes=True).eval()
        model = PeftModel.from_pretrained(plain, first).eval()
        check(torch.equal(model(pixels).logits, want), f"PeftModel on a base with {labels} labels")
        check(list(model.config.id2label.values()) == names, "class names")
    model.load_adapter(second, "other")
    model.set_adapter("other")
    check(torch.equal(model(pixels).logits, other) and model.config.num_labels == 3, "second adapter with 3 classes")
    model.set_adapter("default")
    check(torch.equal(model(pixels).logits, want), "back to the first")

    model = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(base).eval(), first, low_cpu_mem_usage=True)
    check(torch.equal(model(pixels).logits, want), "low_cpu_mem_usage")
    model = AutoPeftModel.from_pretrained(first).eval()
    check(torch.equal(model(pixels).logits, want) and list(model.config.id2label.values()) == names, "AutoPeftModel")

    plain = AutoModelForImageClassification.from_pretrained(base).eval()
    bare = plain(pixels).logits
    plain.load_adapter(first)
    check(torch.equal(plain(pixels).logits, want) and plain.config.num_labels == len(names), "model.load_adapter")
    plain.load_adapter(second, "other")
    plain.set_adapter("other")
    check(torch.equal(plain(pixels).logits, other) and plain.config.num_labels == 3, "model.set_adapter moves the labels")
    plain.set_adapter("default")
    plain.disable_adapters()
    check(torch.equal(plain(pixels).logits, bare) and plain.config.num_labels == 2, "model.disable_adapters")
    plain.enable_adapters()
    check(torch.equal(plain(pixels).logits, want), "model.enable_adapters restores the head")
    plain.delete_adapter("other")
    check(torch.equal(plain(pixels).logits, want), "model.delete_adapter")

    model = AutoModelForImageClassification.from_pretrained(first).eval()
    check(torch.equal(model(pixels).logits, want), "AutoModelForImageClassification on the adapter folder")
    classify = pipeline("image-classification", model=first, top_k=len(names))
    image = Image.new("RGB", (40, 40), (200, 30, 90))
    inputs = classify.image_processor(images=image, return_tensors="pt")["pixel_values"]
    scores = dict(zip(names, model(inputs).logits[0].softmax(0).tolist(), strict=True))
    check(all(abs(scores[row["label"]] - row["score"]) < 1e-6 for row in classify(image)), "pipeline scores")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sys.argv[1:]:
        main(Path(path))
