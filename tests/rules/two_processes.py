"""Every rule under DDP: gradient of two processes against the gradient of one, with and without accumulation. Started by processes.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from rules.toy import OneProcess, closures_of, data, net

from hf_cl.rules import Glad, GradientNorm, Plain, ProGrad, Sagm, Sam
from hf_cl.training.accelerator import leave_group

RULES = {
    "none": Plain(),
    "glad": Glad(0.05, 0.3),
    "sam": Sam(0.05),
    "sagm": Sagm(0.05, 1e-2),
    "gradient_norm": GradientNorm(0.05, 0.02),
    "prograd": ProGrad("reference"),
}


def gradient(rule, accelerator, model, bare, closures):
    bare.unused.requires_grad_(False)
    named = [(name, p) for name, p in bare.named_parameters() if p.requires_grad]
    before = [p.detach().clone() for _, p in named]
    rule.compute(closures, named, accelerator, model)
    assert all(torch.equal(p, q) for (_, p), q in zip(named, before, strict=True))
    return torch.cat([p.grad.flatten() for _, p in named])


def main(result: Path) -> None:
    torch.set_num_threads(1)
    x, y = data()
    found = {}
    for bucket_view in (False, True):
        accelerator = Accelerator(cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=bucket_view)])
        mine = [slice(0, 10), slice(10, 16)][accelerator.process_index]  # uneven shares, weighted by their sample counts
        share = len(x[mine]) * accelerator.num_processes / len(x)
        for name, rule in RULES.items():
            alone = net()
            expected = gradient(rule, OneProcess(), alone, alone, closures_of(alone, x, y))
            for micro_batches in (1, 2):
                bare = net()
                bare.unused.requires_grad_(False)
                model = accelerator.prepare(bare)
                assert isinstance(model, torch.nn.parallel.DistributedDataParallel)
                for _ in range(2):  # the second step finds the buckets of the first
                    bare.zero_grad()
                    closures = closures_of(model, x[mine], y[mine], micro_batches, factor=share)
                    got = gradient(rule, accelerator, model, bare, closures)
                every = accelerator.gather(got[None])
                key = f"{name}, {micro_batches} micro-batches, bucket views {bucket_view}"
                found[key] = {"error": float((got - expected).abs().max()), "spread": float((every - every[0]).abs().max())}
    if accelerator.is_main_process:
        result.write_text(json.dumps(found))
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_group()
