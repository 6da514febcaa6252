"""Losses that compare the samples of a batch, on two processes, as the training loop weights them. Started by processes.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from losses.fakes import session_of
from torch import nn

from hf_cl.contracts import Context, Outputs
from hf_cl.heads import CosineHead
from hf_cl.losses import RelationDistillation, SupervisedContrastive, supervised_contrastive
from hf_cl.losses.relation_distillation import over_samples, relations_of
from hf_cl.training.accelerator import leave_group

SHARES = {
    "even": [[0, 1, 2, 3], [4, 5, 6, 7]],
    "uneven": [[0, 1, 2], [3, 4, 5, 6, 7]],
    "one process repeats a sample of the other with weight 0": [[3], [3]],
}
REPEATS = {"one process repeats a sample of the other with weight 0": 0}
"""Case -> the rank whose share is a repetition."""


def relation() -> RelationDistillation:
    """With the rows of three earlier classes, two of one session and one of another."""
    term, head = RelationDistillation(axis="sample"), CosineHead(6, 3, dtype=torch.float64)
    term._head = head
    term.load_state_dict({"starts": [0, 2], "before": torch.linspace(-1, 1, 18).double().cos().reshape(3, 6)})
    with torch.no_grad():
        head.weight.copy_(term._before.flip(1))
    return term


def of_relation(first, second, keys) -> torch.Tensor:
    term = relation()
    rows = term._head.weight
    now = torch.cat([term._scores(first, rows), term._scores(second, rows)])
    then = torch.cat([term._scores(keys, term._before)] * 2)
    return over_samples(then, now, relations_of([0, 2, 3], "sample", torch.device("cpu")), torch.ones(len(now), dtype=torch.bool))


TERMS = {
    "with a role": (SupervisedContrastive, lambda first, second, keys, labels: supervised_contrastive([first, keys], labels)),
    "of two views": (
        lambda: SupervisedContrastive([], base_temperature=0.1),
        lambda first, second, keys, labels: 0.7 * supervised_contrastive([first, second], labels),
    ),
    "relations": (relation, lambda first, second, keys, labels: of_relation(first, second, keys)),
}
"""Name -> the term, and its value on one process."""


def views(model, images) -> tuple[torch.Tensor, torch.Tensor]:
    """Both from one forward, as the loop has it."""
    first, second = model(torch.cat([images, images.flip(1)])).chunk(2)
    return first, second


def gradient(term, model, chosen, weight, data) -> tuple[float, torch.Tensor]:
    images, keys, labels = (t[chosen] for t in data)
    model.zero_grad()
    key = Outputs(features=keys, logits=keys, embedding=keys)
    outputs = tuple(Outputs(features=view, logits=view, embedding=view) for view in views(model, images))
    batch = {"labels": labels, "index": torch.tensor(chosen)}
    loss = term(Context(batch, outputs, session_of(3, 3), 0, 0, lambda role, view=-1: key))
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
    for name, (make, alone_of) in TERMS.items():
        for case, shares in SHARES.items():
            everybody = sorted({i for share in shares for i in share})
            counts = [0 if REPEATS.get(case) == r else len(share) for r, share in enumerate(shares)]
            value, got = gradient(make(), model, shares[rank], counts[rank] * world / sum(counts), data)
            values = accelerator.gather(torch.tensor([value], dtype=torch.float64))
            spread = accelerator.gather(got[None])
            alone_value, alone = single(alone_of, bare, everybody, data)
            found[f"{name}, {case}"] = {
                "value": float((values - alone_value).abs().max()),
                "gradient": float((got - alone).abs().max()),
                "spread": float((spread - spread[0]).abs().max()),
                "size": float(alone.abs().max()),
            }
    if accelerator.is_main_process:
        result.write_text(json.dumps(found))
    accelerator.wait_for_everyone()


def single(alone_of, bare, chosen, data) -> tuple[float, torch.Tensor]:
    """The same global batch without a process group."""
    images, keys, labels = (t[chosen] for t in data)
    bare.zero_grad()
    loss = alone_of(*views(bare, images), keys, labels)
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in bare.parameters()])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
