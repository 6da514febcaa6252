"""Virtual outliers in a features phase under DDP: the head is prepared, and the loss calls the bare head too. Started by processes.py."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from losses.fakes import FakeTrainer, context_of, session_of
from torch import nn

from hf_cl.heads import LinearHead
from hf_cl.losses import MaskedCrossEntropy, VirtualOutliers
from hf_cl.rules import Glad, Plain
from hf_cl.training.accelerator import leave_group

STEPS = 3


class OnFeatures(nn.Module):
    """What a features phase prepares."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        return self.head(features)


def problem():
    torch.manual_seed(0)
    head = LinearHead(6, 5, dtype=torch.float64)
    labels = torch.arange(2, 5).repeat(8)
    features = torch.randn(24, 6, dtype=torch.float64) + labels[:, None]
    return head, features, labels, replace(session_of(5, 3, labels.tolist()), batch_size=8)


def train(rule, accelerator, rank, world):
    """Rows and outliers after some steps of 8 samples, each process with its part of them; the last step is uneven."""
    head, features, labels, session = problem()
    trainer = FakeTrainer(head, features, session, seed=1)
    outliers = VirtualOutliers(num_offsets=10, num_boundary=4, per_class=5, k=3, tau_ood=-1.0)
    terms = [MaskedCrossEntropy(), outliers]
    for term in terms:
        term.begin_session(trainer, session)
        term.begin_epoch(trainer, 0)
    model, optimizer = accelerator.prepare(OnFeatures(head), torch.optim.SGD(head.parameters(), lr=0.1))
    for step in range(STEPS):
        batch = torch.arange(8 * step, 8 * step + 8)
        mine = batch[rank::world]

        def losses(mine=mine):
            context = context_of(model(features[mine]), labels[mine], session, features=features[mine])
            return {term.name: term(context) * term.weight_at(0) for term in terms}

        rule.compute([losses], [(n, p) for n, p in head.named_parameters()], accelerator, model)
        optimizer.step()
        optimizer.zero_grad()
        for term in terms:
            term.after_step(trainer)
    return torch.cat([p.detach().flatten() for p in head.parameters()]), outliers.state_dict()["outliers"]


class Alone(Accelerator):
    """The same calls without a process group."""

    def prepare(self, *args):
        return args

    def no_sync(self, model):
        raise AssertionError("one micro-batch only")


def main(result: Path) -> None:
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    found = {}
    for name, rule in {"plain": Plain(), "glad": Glad(0.05)}.items():
        expected, expected_outliers = train(rule, Alone(cpu=True), 0, 1)
        rows, outliers = train(rule, accelerator, accelerator.process_index, accelerator.num_processes)
        every, every_outliers = accelerator.gather(rows[None]), accelerator.gather(outliers[None])
        found[name] = {
            "error": float((rows - expected).abs().max()),
            "spread": float((every - every[0]).abs().max()),
            "moved": float((expected - torch.cat([p.detach().flatten() for p in problem()[0].parameters()])).abs().max()),
            "outliers_differ": float((every_outliers - expected_outliers).abs().max()),
        }
    if accelerator.is_main_process:
        result.write_text(json.dumps(found))
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
