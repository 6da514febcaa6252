"""The network and the numbers of tests/reference/sara."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn

from hf_cl.adapters import SaraConfig

FOLDER = Path(__file__).parent / "reference" / "sara"
WEIGHTS = ("conv", "fc1", "fc2", "head")
INPUTS = np.load(FOLDER / "00_inputs.npz", allow_pickle=False)
THRESHOLD = float(INPUTS["threshold"])


def numbers(name: str) -> dict[str, torch.Tensor]:
    """The arrays of one file as tensors; its names of matrices as they are."""
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.tensor(arrays[key]) if arrays[key].dtype.kind != "U" else arrays[key].tolist() for key in arrays.files}


class Net(nn.Module):
    """conv -> mean over channels -> LayerNorm -> fc1 -> GELU -> fc2 -> tanh -> head, with the stored weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.LayerNorm(72)
        self.fc1, self.fc2, self.head = nn.Linear(72, 80), nn.Linear(80, 66), nn.Linear(66, 5)
        self.load_state_dict({key[2:]: torch.tensor(INPUTS[key]) for key in INPUTS.files if key.startswith("w.")})

    def forward(self, x):
        h = self.norm(self.conv(x).flatten(2).mean(1))
        return self.head(torch.tanh(self.fc2(F.gelu(self.fc1(h)))))


def adapted(**settings):
    """The network with a SARA adapter on its weights."""
    config = SaraConfig(**{"target_modules": list(WEIGHTS), "threshold": THRESHOLD, **settings})
    return get_peft_model(Net(), config)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(INPUTS["X"][step]), torch.tensor(INPUTS["Y"][step])


def effective(model) -> dict[str, torch.Tensor]:
    """Every parameter of the network as the adapter makes it."""
    tensors = dict(Net().named_parameters())
    for name, layer in model.base_model.sara_layers():
        with torch.no_grad():
            tensors |= {f"{name}.{part}": t for part, t in layer.effective_tensors(["default"]).items()}
    return tensors
