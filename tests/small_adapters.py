"""Small adapters on tiny bases, for tests."""

from __future__ import annotations

from typing import Any

import fitted_heads
import tiny
import torch
from peft import get_peft_model
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_cl.heads import build_head
from hf_cl.hub.agreement import Judge
from hf_cl.hub.load import load
from hf_cl.hub.small import write_small

NAMES = ["ant", "bee <b>", "crab", "deer"]
PICTURES = [torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(i)) for i in range(6)]


def an_adapter(folder, kind, head=None, fit=False, **changes):
    """An adapter with random values on a tiny base beside it, grown once; `fit`: its head is fitted to random features."""
    plain: Any = tiny.base(tiny.homes(kind)[0])
    plain.save_pretrained(folder / "base")
    base = AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=2)
    torch.manual_seed(1)
    model = get_peft_model(base, tiny.ADAPTERS[kind](class_names=NAMES[:3], head=head or {"type": "linear"}, **changes))
    model.base_model.grow("default", NAMES[3:])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    if fit:
        fitted, labels = build_head(model.peft_config["default"].head, 32, 0), torch.arange(40) % 4
        fitted_heads.run(fitted, [(torch.randn(40, 32) + 2 * torch.randn(4, 32)[labels], labels)])
        model.base_model.head_wrapper().modules_to_save["default"] = fitted
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder / "adapter")
    return folder / "adapter"


def shrunk(adapter, out, **options):
    """What became of it, and the logits [4, C] that it must give."""
    classifier = load(adapter, device="cpu")
    judge = Judge(PICTURES, classifier.processor, classifier.logits_of)
    made = write_small(classifier, out, judge, **{"bits": 8, "max_bytes": None, "keep": 0.0, **options})
    classifier.processor.save_pretrained(out)
    with torch.no_grad():
        return made, classifier.logits_of(tiny.images())
