"""Trees of training state survive JSON and safetensors exactly."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_cl.checkpoints.state_tree import pack, rng_state, set_rng_state, unpack

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
KEYS = st.text() | st.integers()
TREES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4) | st.tuples(inner, inner))


def through_json(tree):
    tensors = {}
    return unpack(json.loads(json.dumps(pack(tree, tensors), allow_nan=False)), tensors)


@given(TREES)
def test_plain_values(tree):
    assert through_json(tree) == tree


def test_tensors_arrays_and_nan():
    tree = {"w": torch.randn(3, dtype=torch.float64), 3: [np.arange(5, dtype=np.uint32).reshape(1, 5), float("nan"), np.float32(0.1)]}
    back = through_json(tree)
    assert torch.equal(back["w"], tree["w"]) and back["w"].dtype == torch.float64
    assert back[3][0].dtype == np.uint32 and (back[3][0] == tree[3][0]).all() and np.isnan(back[3][1])
    assert back[3][2] == float(np.float32(0.1))


def test_an_optimizer_goes_on_exactly():
    def make():
        torch.manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(4))
        return parameter, torch.optim.Adam([parameter], lr=0.1)

    def step(parameter, optimizer):
        optimizer.zero_grad()
        parameter.square().sum().backward()
        optimizer.step()

    parameter, optimizer = make()
    step(parameter, optimizer)
    twin, twin_optimizer = make()
    twin.data.copy_(parameter.data)
    twin_optimizer.load_state_dict(through_json(optimizer.state_dict()))
    step(parameter, optimizer)
    step(twin, twin_optimizer)
    assert torch.equal(parameter, twin)


def test_random_states():
    state = through_json(rng_state())
    first = (random.random(), np.random.rand(), torch.rand(1).item())
    set_rng_state(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == first


def test_what_has_no_place_is_named():
    with pytest.raises(TypeError, match=r"/a/0: a object has no place"):
        pack({"a": [object()]}, {})


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.randn(3, 5).T,
        lambda: torch.randn(2, 3, 4).permute(2, 0, 1),
        lambda: torch.randn(4, 4)[:, 1],
        lambda: torch.randn(1).expand(3),
    ],
)
def test_tensors_come_back_as_they_lay_and_in_memory_of_their_own(made):
    tensor, tensors = made(), {}
    tree = json.loads(json.dumps(pack({"x": tensor}, tensors, "state")))
    back = unpack(tree, tensors)["x"]
    assert torch.equal(back, tensor) and back.data_ptr() % 64 == 0 and back.data_ptr() != tensors["state/x"].data_ptr()
    assert back.stride() == (tensor if tensor.dim() > 1 else tensor.contiguous()).stride()
