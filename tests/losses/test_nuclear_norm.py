"""The term itself; its numbers are compared with the official ones in tests/adapters/sara/test_reference.py."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from losses.fakes import context_of, session_of
from peft import get_peft_model
from tiny import ADAPTERS, base
from torch import nn

from hf_cl.adapters import SaraConfig
from hf_cl.losses import NuclearNorm


def context(step: int = 0):
    return replace(context_of(torch.zeros(2, 2), torch.zeros(2, dtype=torch.long), session_of(2, 2)), step=step)


def model_of(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(70, 80), nn.Linear(80, 66), nn.Linear(66, 4))
    return get_peft_model(net, SaraConfig(**{"target_modules": ["0", "1", "2"], "density": 0.3, "rank_mode": "all", **settings}))


def begun(model, weight=1.0) -> NuclearNorm:
    term = NuclearNorm(weight)
    term.begin_session(SimpleNamespace(tuner=model.base_model), session_of(2, 2))
    return term


def test_it_is_the_sum_of_singular_values_and_its_gradient_is_masked():
    model = model_of()
    loss = begun(model)(context())
    loss.backward()
    total = 0.0
    for name in "01":  # the third matrix has a side of 4
        layer = model.base_model.model[int(name)]
        indices = layer.sara_indices["default"].long()
        weight = layer.get_base_layer().weight.double()
        matrix = torch.zeros_like(weight).flatten().index_put((indices,), weight.flatten()[indices]).view_as(weight)
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        total += float(s.sum())
        torch.testing.assert_close(layer.sara_values["default"].grad.double(), (u @ vh).flatten()[indices], atol=1e-5, rtol=0)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    assert model.base_model.model[2].sara_values["default"].grad is None


def test_the_gradient_lowers_the_norm():
    model = model_of()
    term = begun(model)
    before = term(context())
    before.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p.sub_(0.01 * p.grad)
    assert term(context()).item() < before.item()


def test_one_matrix_per_step_is_drawn_from_the_step():
    term = begun(model_of(rank_mode="one"))
    draws = [term(context(step)).item() for step in range(12)]
    assert len(set(draws)) == 2
    assert draws == [term(context(step)).item() for step in range(12)]


def test_it_works_on_a_half_precision_base_and_under_autocast():
    model = get_peft_model(nn.Sequential(nn.Linear(70, 80).bfloat16()), SaraConfig(target_modules=["0"], density=0.3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = begun(model)(context())
    loss.backward()
    assert loss.dtype == torch.float32
    assert model.base_model.model[0].sara_values["default"].grad.isfinite().all()


def test_another_adapter_is_refused():
    model = get_peft_model(base("vit"), ADAPTERS["ONE_PROMPT"](class_names=["a"]))
    with pytest.raises(ValueError, match="NuclearNorm needs a SARA adapter; this run has a OnePromptModel"):
        begun(model)


def test_before_a_session_it_says_so():
    with pytest.raises(RuntimeError, match="no session has begun"):
        NuclearNorm()(context())


def test_the_weight_may_follow_the_epoch():
    assert NuclearNorm(lambda epoch: 0.5 * epoch).weight_at(3) == 1.5
    assert NuclearNorm().weight_at(0) == 5e-4
