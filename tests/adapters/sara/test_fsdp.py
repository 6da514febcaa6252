"""Under FSDP's wrapper, whose forward pass puts plain tensors in front of a module's parameters."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from peft import get_peft_model
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from hf_cl.adapters import SaraConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # FSDP on one process says that it shards nothing


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Linear(8, 2)

    def forward(self, x):  # [B, 3, S, S] -> [B, 2]
        return self.linear(self.norm(self.conv(x)).square().mean((2, 3)))


@pytest.fixture
def one_process():
    dist.init_process_group(backend="gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("names", [["conv"], ["norm"], ["linear"], ["conv", "norm", "linear"]])
def test_the_adapter_is_applied(names, one_process):
    torch.manual_seed(0)
    config = SaraConfig(density=0.3, include_bias_norm=True, target_modules=names, init_weights=False)
    model = get_peft_model(Net(), config).eval()
    x = torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = model(x)
        with model.disable_adapter():
            assert not torch.allclose(model(x), expected, atol=1e-4)
        wrapped = FullyShardedDataParallel(model, use_orig_params=True, device_id=torch.device("cpu"))
        assert torch.equal(wrapped(x), expected) and torch.equal(wrapped(x), expected)
