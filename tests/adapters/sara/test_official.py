"""Checkpoints of the official optimizer."""

from __future__ import annotations

import pytest
import torch
from sara_reference import THRESHOLD, Net, effective, numbers
from torch import nn

from hf_cl.adapters.sara import from_official


def official_state(net: nn.Module, trained: dict[str, torch.Tensor]) -> dict:
    """What its `save_params` writes: the trained values under each parameter's number, no positions."""
    state: dict = {"threshold": THRESHOLD}
    for i, (name, p) in enumerate(net.named_parameters()):
        state[i] = trained[name][p.detach().abs() < THRESHOLD]
    return state


def test_a_trained_network_comes_back():
    expected = {key[3:]: t for key, t in numbers("07_dense_rank").items() if key.startswith("t5.")}
    model = from_official(official_state(Net(), expected), Net())
    for name, tensor in effective(model).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-8, rtol=1e-6)
    assert {name for name, _ in model.base_model.sara_layers()} == {"conv", "norm", "fc1", "fc2", "head"}


def test_another_base_is_refused():
    state = official_state(Net(), dict(Net().named_parameters()))
    other = Net()
    with torch.no_grad():
        other.fc2.weight.mul_(0.5)
    with pytest.raises(ValueError, match=r"956 entries of fc2\.weight, this base \d+ below 0\.02: it was trained from another base"):
        from_official(state, other)


class WithEmbedding(Net):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(4, 72)
        nn.init.constant_(self.embedding.weight, 0.01)


def test_what_sara_cannot_adapt_is_refused_only_if_it_was_trained():
    net = WithEmbedding()
    untouched = {name: p.detach().clone() for name, p in net.named_parameters()}
    assert "embedding" not in dict(from_official(official_state(net, untouched), WithEmbedding()).base_model.sara_layers())
    untouched["embedding.weight"][0, 0] = 0.5
    with pytest.raises(ValueError, match=r"also trains embedding\.weight"):
        from_official(official_state(net, untouched), WithEmbedding())
