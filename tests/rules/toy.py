"""A process without accelerate, and a small network, for gradient rules."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F


class OneProcess:
    """The members of `Accelerator` that rules use."""

    def __init__(self, scaler=None, distributed_type="NO"):
        self.scaler, self.distributed_type = scaler, distributed_type
        self.device = torch.device("cpu")
        self.unsynced = 0

    def backward(self, loss):
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    @contextmanager
    def no_sync(self, model):
        self.unsynced += 1
        yield


class Net(nn.Module):
    """Two layers, a dropout between them, and a parameter that no forward uses."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)
        self.dropout = nn.Dropout(dropout)
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.second(self.dropout(torch.tanh(self.first(x))))


def net(dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    return Net(dropout).to(dtype)


def data(dtype=torch.float64, count=16):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 6, generator=generator, dtype=torch.float64).to(dtype), torch.randint(0, 3, (count,), generator=generator)


def closures_of(model, x, y, micro_batches=1, factor=1.0):
    """One closure per micro-batch, weighted by its share of the batch and by `factor`; `reference` is a loss for ProGrad."""

    def closure(x, y, share):
        def losses():
            logits = model(x)
            return {"cross_entropy": F.cross_entropy(logits, y) * share, "reference": -(logits[:, 1] ** 2).mean() * share}

        return losses

    parts = zip(x.chunk(micro_batches), y.chunk(micro_batches), strict=True)
    return [closure(a, b, factor * len(a) / len(x)) for a, b in parts]


def gradients(model):
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def run(rule, model=None, batch=None, micro_batches=1, accelerator=None, factor=1.0):
    """One step of a rule on the toy problem: losses, gradients, and what everything ran on."""
    model = model or net()
    x, y = batch or data(next(model.parameters()).dtype)
    accelerator = accelerator or OneProcess()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    losses = rule.compute(closures_of(model, x, y, micro_batches, factor), named, accelerator, model)
    return SimpleNamespace(losses=losses, gradients=gradients(model), model=model, accelerator=accelerator)


def assert_same(a, b, tolerance=0.0):
    """Both are {name: gradient or None}."""
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert (value is None) == (b[name] is None), name
        if value is not None:
            torch.testing.assert_close(value, b[name], rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
