"""The small network of the reference numbers of `rehearsal_free`, as the losses' trainer and contexts see it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from losses.fakes import session_of
from torch import nn

from hf_cl.contracts import Context, Outputs

REFERENCE = Path(__file__).parents[1] / "reference"


def numbers(name: str) -> dict[str, torch.Tensor]:
    """The arrays of a file of numbers, as tensors."""
    with np.load(REFERENCE / f"{name}.npz") as stored:
        return {key: torch.from_numpy(np.array(stored[key])) for key in stored.files}


class Net(nn.Module):
    """`feat` (linear, tanh, linear) and `last` (linear), float64."""

    def __init__(self, values: dict[str, torch.Tensor], prefix: str) -> None:
        super().__init__()
        wide, inner = values[f"{prefix}.feat.0.weight"].T.shape
        self.feat = nn.Sequential(nn.Linear(wide, inner), nn.Tanh(), nn.Linear(inner, inner)).double()
        self.last = nn.Linear(inner, len(values[f"{prefix}.last.bias"])).double()
        self.load_state_dict({name: values[f"{prefix}.{name}"] for name in self.state_dict()})

    def outputs(self, x: torch.Tensor) -> Outputs:
        features = self.feat(x)
        return Outputs(features, self.last(features), features)


class NetTrainer:
    """What the hooks of losses use: `feat` is the adapter, `last` the head."""

    def __init__(self, net: Net, batches=()) -> None:
        self.model, self.batches = net, list(batches)
        self.tuner = SimpleNamespace(model=net)
        self.accelerator = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
        self.contexts: list[Context] = []

    @property
    def named_parameters(self):
        return [(name.replace("last.", "head."), p) for name, p in self.model.named_parameters()]

    def batches_of(self, dataset, *, augment=False):
        return iter({"pixel_values": x, "labels": y} for x, y in self.batches)

    def outputs_of(self, pixel_values, *, role=None):
        return self.model.outputs(pixel_values)


def context(net: Net, x, y, seen: int, new: int, previous: Net | None = None) -> Context:
    """One batch in a session of `new` classes among `seen`."""

    def frozen(role, view=-1):
        assert role == "previous" and previous is not None
        with torch.no_grad():
            return previous.outputs(x)

    outputs = net.outputs(x)
    view = Outputs(outputs.features, outputs.logits[:, :seen], outputs.embedding)
    return Context({"labels": y, "index": torch.arange(len(y))}, (view,), session_of(seen, new), epoch=0, step=0, frozen=frozen)
