"""DST steps with rewirings by dense gradients, on two processes and on one. Writes the largest difference, and whether positions agree."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import get_peft_model
from tiny import base, images
from torch.nn import functional as F
from two_processes import farthest, share_of, write

from hf_cl.adapters import DstConfig
from hf_cl.training.accelerator import leave_group

LABELS = torch.arange(8) % 2


def build():
    model = get_peft_model(base("vit"), DstConfig(density=0.1, target_modules=["q_proj", "fc1"], growth="gradient"))
    return model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)


def train(bare, model, optimizer, chosen, backward, reduce) -> tuple[list[torch.Tensor], list[torch.Tensor], int]:
    """Values and positions of all layers after six steps, and how many entries moved to another place."""
    pixels, moved = images(8), 0
    for step in range(1, 7):
        due = step % 2 == 0
        bare.base_model.keep_dense(due)
        backward(F.cross_entropy(model(pixels[chosen]).logits, LABELS[chosen]))
        optimizer.step()
        if due:
            generator = torch.Generator().manual_seed(step)
            moved += bare.base_model.rewire(0.3, partial(torch.randperm, generator=generator), optimizer, reduce)
        optimizer.zero_grad()
    layers = [layer for _, layer in bare.base_model.weight_layers()]
    return [layer.dst_values["default"].detach() for layer in layers], [layer.dst_indices["default"] for layer in layers], moved


def main(result: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    bare, optimizer = build()
    model, prepared = accelerator.prepare(bare, optimizer)
    chosen = share_of(accelerator)
    values, places, _ = train(bare, model, prepared.optimizer, chosen, accelerator.backward, partial(accelerator.reduce, reduction="mean"))
    alone, optimizer = build()
    others, their_places, moved = train(alone, alone, optimizer, list(range(8)), lambda loss: loss.backward(), lambda dense: dense)
    same = all(torch.equal(a, b) for a, b in zip(places, their_places, strict=True))
    difference = farthest(values, others) if same else float("inf")
    write(accelerator, result, difference, moved)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
