"""Steps of PELA's three losses on two processes and on one. Writes the largest difference of a factor, and how far they moved."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import Accelerator
from peft import get_peft_model
from tiny import NAMES, base, images
from torch.nn import functional as F
from two_processes import farthest, share_of, write

from hf_cl.adapters import LowRankConfig
from hf_cl.backbones import ImageClassifier
from hf_cl.contracts import Context, Outputs
from hf_cl.losses import FeatureMatch, WeightDeviation
from hf_cl.training.accelerator import leave_group

LABELS = torch.arange(8) % 2


def build():
    model = get_peft_model(base("vit"), LowRankConfig(class_names=NAMES[:2]))
    tuner = model.base_model
    classifier = ImageClassifier(model.get_base_model(), tuner.head_wrapper(), tuner.take_extras)
    return tuner, classifier, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)


def train(tuner, bare, model, optimizer, chosen, backward) -> list[torch.Tensor]:
    pixels, labels = images(8)[chosen], LABELS[chosen]
    match, deviation, loop = FeatureMatch(), WeightDeviation(), SimpleNamespace(tuner=tuner)
    for loss in (match, deviation):
        loss.begin_session(loop, None)
    for step in range(4):
        model.train()
        view = Outputs(*model(pixels))
        model.eval()
        with torch.no_grad(), tuner.role("pretrained"):
            theirs = bare.outputs(pixels)
        ctx = Context({"labels": labels}, (view,), None, 0, step, lambda role, view, theirs=theirs: theirs)
        backward(F.cross_entropy(view.logits, labels) + match(ctx) + deviation(ctx))
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for name, p in bare.named_parameters() if "low_rank_" in name]


def main(result: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    tuner, bare, optimizer = build()
    model, prepared = accelerator.prepare(bare, optimizer)
    chosen = share_of(accelerator)
    together = train(tuner, bare, model, prepared, chosen, accelerator.backward)
    tuner, alone, optimizer = build()
    before = [p.detach().clone() for name, p in alone.named_parameters() if "low_rank_" in name]
    single = train(tuner, alone, alone, optimizer, list(range(8)), lambda loss: loss.backward())
    difference = farthest(together, single)
    moved = farthest(before, single)
    write(accelerator, result, difference, moved)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
