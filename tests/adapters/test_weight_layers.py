"""What every type that changes weights promises of its layers: merging and unmerging, convolutions, autocast, what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from tiny import ADAPTERS, ON_WEIGHTS
from torch import Tensor, nn

KINDS = tuple(kind for kind in ON_WEIGHTS if kind not in ("SARA", "LOW_RANK"))
"""SARA has tests of its own of all this, and LOW_RANK, which puts others in the place of weights, of what differs."""
each = pytest.mark.parametrize("kind", KINDS)


class Net(nn.Module):
    """conv -> fc -> head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.head = nn.Conv2d(3, 4, 3, padding=1, groups=1), nn.Linear(36, 8), nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(self.conv(x).flatten(1))))


TARGETS = ["conv", "fc", "head"]


def adapted(kind: str, dtype: torch.dtype = torch.float32, **settings):
    return get_peft_model(Net().to(dtype), ADAPTERS[kind](target_modules=TARGETS, init_weights=False, **settings))


def batch(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1)).to(dtype)


@each
def test_starts_as_the_identity(kind):
    model = get_peft_model(Net(), ADAPTERS[kind](target_modules=TARGETS))
    assert torch.equal(model(batch()), Net()(batch()))
    assert not torch.equal(adapted(kind)(batch()), Net()(batch()))


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_merging_is_the_forward_pass_and_unmerging_the_base_to_the_bit(kind, dtype):
    model, x = adapted(kind, dtype), batch(dtype)
    want = model(x)
    model.merge_adapter(safe_merge=True)
    assert torch.equal(model(x), want)
    model.unmerge_adapter()
    for name, parameter in Net().to(dtype).named_parameters():
        module, _, part = name.rpartition(".")
        assert torch.equal(getattr(model.base_model.model.get_submodule(module).get_base_layer(), part), parameter), name
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), Net().to(dtype)(x))
    merged = adapted(kind, dtype).merge_and_unload()
    assert type(merged.fc) is nn.Linear and torch.equal(merged(x), want)


@each
def test_two_adapters_together_are_what_merging_both_gives(kind):
    model = adapted(kind)
    model.add_adapter("other", ADAPTERS[kind](target_modules=["fc"], init_weights=False))
    model.base_model.set_adapter(["default", "other"])
    want = model(batch())
    assert not torch.equal(want, adapted(kind)(batch()))
    delta = model.base_model.model.fc.get_delta_weight("other")
    assert delta.shape == (8, 36) and delta.any()
    want.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)


@each
def test_safe_merge_refuses_what_is_not_finite(kind):
    model = adapted(kind)
    with torch.no_grad():
        model.base_model.model.fc.get_base_layer().weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)


@each
def test_gradients_under_autocast_are_those_without_to_its_precision(kind):
    model = adapted(kind)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(batch())
        out.float().square().mean().backward()
    exact = copy.deepcopy(model)
    exact.zero_grad()
    exact(batch()).square().mean().backward()
    assert out.dtype == torch.bfloat16
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        if p.requires_grad:
            assert p.dtype == p.grad.dtype == torch.float32
            scale = q.grad.abs().max()
            torch.testing.assert_close(p.grad / scale, q.grad / scale, atol=0.05, rtol=0.1, msg=name)


@each
def test_the_gradient_of_the_input_is_that_of_the_effective_weight(kind):
    layer = adapted(kind, torch.float64).base_model.model.fc
    x = torch.randn(5, 36, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(layer(x).square().sum(), x)
    weight = layer.effective_weight(["default"]).detach()
    torch.testing.assert_close(g, 2 * (x @ weight.T + layer.get_base_layer().bias) @ weight)


@each
def test_what_cannot_be_changed_is_refused_by_name(kind):
    def on(module: nn.Module, target: str):
        return get_peft_model(nn.ModuleDict({"inner": module}), ADAPTERS[kind](target_modules=[target]))

    with pytest.raises(ValueError, match=rf"{kind} adapts nn.Linear.*; 'inner' is a Embedding"):
        on(nn.Embedding(4, 4), "inner")
    with pytest.raises(ValueError, match=rf"{kind} cannot adapt 'inner.out_proj'"):
        on(nn.MultiheadAttention(4, 2), "out_proj")
    tied = Net()
    tied.fc = nn.Linear(8, 5, bias=False)
    tied.fc.weight = tied.head.weight
    with pytest.raises(ValueError, match=rf"{kind}: 'head' and 'fc' share one weight"):
        get_peft_model(tied, ADAPTERS[kind](target_modules=["fc", "head"]))
