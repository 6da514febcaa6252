"""A wrapped module whose weight is a plain tensor for the time of the forward pass, as FSDP makes it."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from torch import nn

from hf_cl.adapters import SaraConfig


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 2)

    def forward(self, x):  # [B, 3, S, S] -> [B, 2]
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize("names", [["conv"], ["norm"], ["linear"], ["conv", "norm", "linear"]])
def test_the_adapter_is_applied_all_the_same(names):
    torch.manual_seed(0)
    config = SaraConfig(density=0.3, include_bias_norm=True, target_modules=names, init_weights=False)
    model = get_peft_model(Net(), config).eval()
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        for name in names:
            original = model.base_model.model.get_submodule(name).original
            for part in ("weight", "bias"):
                tensor = original._parameters.pop(part)
                setattr(original, part, tensor.detach())
        assert torch.equal(model(x), expected)
        with model.disable_adapter():
            assert not torch.allclose(model(x), expected, atol=1e-4)
