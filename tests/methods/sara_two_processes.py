"""SaRA steps across the switch on two processes and on one: rank term, decay hook and frozen entries. Writes the largest difference."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import get_peft_model
from tiny import base, images
from torch.nn import functional as F
from two_processes import farthest, share_of, write

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara import attach
from hf_cl.training.accelerator import leave_group

LABELS = torch.arange(8) % 2


def build():
    settings = {"density": 0.2, "include_bias_norm": True, "rank_min_dim": 16, "rank_min_nnz": 20}
    model = get_peft_model(base("vit"), SaraConfig(**settings))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    attach(optimizer, model.base_model, 0.1)
    return model, optimizer


def train(bare, model, optimizer, chosen, backward) -> list[torch.Tensor]:
    pixels = images(8)
    for step in range(6):
        if step == 3:
            left = bare.base_model.progressive_switch()
            assert 0 < left < bare.base_model.active_entries()[1]
        loss = F.cross_entropy(model(pixels[chosen]).logits, LABELS[chosen]) + 1e-3 * bare.base_model.rank_loss(step)
        backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return [e.values.detach() for _, e in bare.base_model.sara_entries()]


def main(result: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    bare, optimizer = build()
    model, prepared = accelerator.prepare(bare, optimizer)
    chosen = share_of(accelerator)
    together = train(bare, model, prepared, chosen, accelerator.backward)
    alone, optimizer = build()
    single = train(alone, alone, optimizer, list(range(8)), lambda loss: loss.backward())
    difference = farthest(together, single)
    moved = max(float(b.abs().max()) for b in single)
    write(accelerator, result, difference, moved)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
