"""The fake device refuses what a GPU refuses and sees what a GPU's host waits for."""

from __future__ import annotations

import copy

import pytest
import torch
from fake_device import Elsewhere, FakeDevice, MixedDevicesError, device
from torch import nn


def test_values_gradients_and_copies_are_those_of_the_cpu():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    there, x = copy.deepcopy(plain), torch.randn(3, 4)
    first = there[0].weight
    with FakeDevice():
        there.to(device())
        assert there[0].weight is first and isinstance(first, Elsewhere)  # as on a GPU, parameters keep their identity
        for model, images in ((plain, x), (there, x.to(device()))):
            model(images).square().mean().backward()
            torch.optim.Adam(model.parameters()).step()
        for here, moved in zip(plain.parameters(), copy.deepcopy(there).parameters(), strict=True):
            assert moved.device == device() and torch.equal(moved.cpu(), here)
            assert isinstance(moved, nn.Parameter)


MIXED = {
    "a sum": lambda here, there: there + here,
    "a product": lambda here, there: there @ here.T,
    "a concatenation": lambda here, there: torch.cat([there, here]),
    "in place": lambda here, there: there.add_(here),
    "positions of the other": lambda here, there: here[torch.zeros(1, dtype=torch.long, device=device())],
}


@pytest.mark.parametrize("name", MIXED)
def test_mixed_devices_are_refused(name):
    with FakeDevice(), pytest.raises(MixedDevicesError):
        MIXED[name](torch.ones(2, 3), torch.ones(2, 3, device=device()))


def test_numbers_of_the_host_go_with_everything():
    with FakeDevice():
        assert ((torch.ones(2, device=device()) + torch.tensor(1.0)) * 2).tolist() == [4.0, 4.0]


WAITS = {
    "__bool__": lambda there: bool(there.sum() > 0),
    "item": lambda there: there.mean().item(),
    "__float__": lambda there: float(there.mean()),
    "__int__": lambda there: int(there.sum()),
    "tolist": lambda there: there.tolist(),
    "cpu": lambda there: there.cpu(),
    "numpy": lambda there: there.cpu().numpy(),
    "a mask": lambda there: there[there > 0],
    "masked_select": lambda there: there.masked_select(there > 0),
    "nonzero": lambda there: there.nonzero(),
    "unique": lambda there: there.unique(),
    "equal": lambda there: torch.equal(there, there),
    "singular values": lambda there: torch.linalg.svdvals(there[:1]),
    "a new tensor": lambda there: torch.tensor([1.0], device=device()),
    "a copy to it": lambda there: torch.ones(3).to(device()),
    "a copy into it": lambda there: there.copy_(torch.ones(2, 3)),
    "positions of the host": lambda there: there[torch.zeros(1, dtype=torch.long)],
}
QUIET = {
    "arithmetic": lambda there: (there * 2 + 1).softmax(-1).sum(),
    "filling": lambda there: torch.zeros(3, device=device()).masked_fill_(there[0] > 0, 1.0),
    "a copy that need not be there yet": lambda there: torch.ones(3).to(device(), non_blocking=True),
    "a copy on it": lambda there: there.copy_(there.clone()),
    "positions of its own": lambda there: there[torch.zeros(1, dtype=torch.long, device=device())],
    "where": lambda there: torch.where(there > 0, there, 0.0),
}


@pytest.mark.parametrize("name", WAITS | QUIET)
def test_waits_are_seen(name):
    with FakeDevice() as fake:
        there = torch.ones(2, 3, device=device())
        with fake.watching():
            (WAITS | QUIET)[name](there)
            with fake.watching(False):
                there.tolist()
    assert [where for where, _ in fake.waits] == ["device/test_fake_device.py <lambda>"] * (name in WAITS)


def test_beside_a_real_device_it_is_not_made(monkeypatch):
    monkeypatch.setattr(torch._C, "_get_privateuse1_backend_name", lambda: "privateuseone")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    with pytest.raises(pytest.skip.Exception, match="there is a cuda device: the fake one would hide it"), FakeDevice():
        pass


def test_outside_of_it_the_device_is_not_there():
    with FakeDevice():
        assert torch.accelerator.is_available()
    assert not torch.get_device_module(device()).is_available()
