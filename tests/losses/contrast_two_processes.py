"""The supervised contrast on two processes, as the training loop weights it. Started by processes.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from losses.fakes import session_of
from torch import nn

from hf_cl.contracts import Context, Outputs
from hf_cl.losses import SupervisedContrastive, supervised_contrastive
from hf_cl.training.accelerator import leave_group

SHARES = {
    "even": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "uneven": [[0, 1, 2], [3, 4, 5, 6, 7]],
    "one process repeats a sample of the other with weight 0": [[3], [3]],
}
REPEATS = {"one process repeats a sample of the other with weight 0": 0}
"""Case -> the rank whose share is a repetition."""


def context(model, keys, images, labels, index) -> Context:
    embedding = model(images)
    key = Outputs(features=keys, logits=keys, embedding=keys)
    return Context(
        {"labels": labels, "index": index},
        (Outputs(features=embedding, logits=embedding, embedding=embedding),),
        session_of(3, 3),
        epoch=0,
        step=0,
        frozen=lambda role, view=-1: key,
    )


def gradient(model, chosen, weight, data) -> tuple[float, torch.Tensor]:
    images, keys, labels = (t[chosen] for t in data)
    model.zero_grad()
    loss = SupervisedContrastive()(context(model, keys, images, labels, torch.tensor(chosen)))
    (loss * weight).backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def main(result: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6)).double()
    data = torch.randn(8, 5).double(), torch.randn(8, 6).double(), torch.arange(8) % 3
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    model, found = accelerator.prepare(bare), {}
    for case, shares in SHARES.items():
        everybody = sorted({i for share in shares for i in share})
        counts = [0 if REPEATS.get(case) == r else len(share) for r, share in enumerate(shares)]
        value, got = gradient(model, shares[rank], counts[rank] * world / sum(counts), data)
        values = accelerator.gather(torch.tensor([value], dtype=torch.float64))
        spread = accelerator.gather(got[None])
        alone_value, alone = single(bare, everybody, data)
        found[case] = {
            "value": float((values - alone_value).abs().max()),
            "gradient": float((got - alone).abs().max()),
            "spread": float((spread - spread[0]).abs().max()),
            "size": float(alone.abs().max()),
        }
    if accelerator.is_main_process:
        result.write_text(json.dumps(found))
    accelerator.wait_for_everyone()


def single(bare, chosen, data) -> tuple[float, torch.Tensor]:
    """The same global batch without a process group."""
    images, keys, labels = (t[chosen] for t in data)
    bare.zero_grad()
    loss = supervised_contrastive([bare(images), keys], labels)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in bare.parameters()])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
