"""The package's classes against the numbers of the official optimizer (tests/reference/sara)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sara_reference import INPUTS, WEIGHTS, adapted, batch, effective, numbers

from hf_cl.adapters.sara import SaraLinear, attach, sara_lr

EVERYTHING = {"target_modules": [*WEIGHTS, "norm"], "include_bias_norm": True}
LR, DECAY, LAMBDA = (float(INPUTS[key]) for key in ("lr", "weight_decay", "lambda_rank"))
SWITCH = int(INPUTS["progressive_iter"])


def test_learning_rate_rule():
    rule = numbers("01_lr_rule")
    assert [sara_lr(float(t)) for t in rule["threshold"]] == pytest.approx(rule["lr"].tolist(), rel=1e-12)


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["weights", "with biases and norms"])
def test_selected_entries(settings):
    expected = numbers("02_mask")
    for name, layer in adapted(**settings).base_model.sara_layers():
        entries = layer.entries("default")
        assert [e.name for e in entries] == (["weight", "bias"] if settings else ["weight"])
        for e in entries:
            assert e.indices.dtype == torch.int32 and torch.equal(e.indices.long(), expected[f"index.{name}.{e.name}"])


@pytest.mark.parametrize("block_rows", [0, 7])
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["weights", "with biases and norms"])
def test_loss_and_gradient(settings, block_rows):
    expected = numbers("03_grad")
    model = adapted(block_rows=block_rows, **settings)
    x, y = batch(0)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    torch.testing.assert_close(loss, expected["loss"], atol=1e-7, rtol=0)
    for name, layer in model.base_model.sara_layers():
        for e in layer.entries("default"):
            torch.testing.assert_close(e.values.grad, expected[f"gathered.{name}.{e.name}"], atol=1e-7, rtol=0)


def test_sparse_weight_update_alone():
    """What the official `Sparse` function computes: W with other values at the mask."""
    given = numbers("04_sparse_fn")
    linear = torch.nn.Linear(72, 80, bias=False)
    linear.weight.data = given["w"]
    layer = SaraLinear(linear, "default", adapted().peft_config["default"], "fc1")
    assert torch.equal(layer.sara_indices["default"].long(), given["mask"].flatten().nonzero().squeeze(1))
    with torch.no_grad():
        layer.sara_values["default"].copy_(given["v"] - given["w"][given["mask"]])
    out = layer(given["x"])
    torch.testing.assert_close(out, given["out"], atol=1e-6, rtol=0)
    out.backward(given["grad_out"])
    torch.testing.assert_close(layer.sara_values["default"].grad, given["grad_v"], atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", ["fc1", "fc2"])
def test_nuclear_norm(name):
    expected = numbers("05_nuclear")
    model = adapted()
    loss = rank_loss_of(model, name)
    (LAMBDA * loss).backward()
    torch.testing.assert_close(loss, expected[f"{name}.weight.nuc"], atol=0, rtol=1e-6)
    torch.testing.assert_close(LAMBDA * loss, expected[f"{name}.weight.loss"], atol=0, rtol=1e-6)
    gradient = model.get_submodule(f"base_model.model.{name}").sara_values["default"].grad
    torch.testing.assert_close(gradient, expected[f"{name}.weight.grad_masked"], atol=1e-8, rtol=0)


def rank_loss_of(model, name: str) -> torch.Tensor:
    """The tuner's rank term at a step whose draw is the matrix `name`."""
    entries = model.get_submodule(f"base_model.model.{name}").entries("default")[0]
    for step in range(50):
        loss = model.base_model.rank_loss(step)
        if torch.autograd.grad(loss, entries.values, retain_graph=True, allow_unused=True)[0] is not None:
            return loss
    raise AssertionError(f"50 draws never took {name}")


def train(file: str, decay: float, rank: bool, settings: dict, switch: bool = True) -> tuple[float, float]:
    """Six steps with the switch after the third; the largest difference of a loss, and of an entry after steps 2 and 5."""
    expected = numbers(file)
    model = adapted(block_rows=16, **settings)
    tuner = model.base_model
    on_value = tuner.peft_config["default"].decay == "value"
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, weight_decay=0.0 if on_value else decay)
    attach(optimizer, tuner, decay if on_value else 0.0)
    worst_loss = worst_entry = 0.0
    for step in range(6):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y)
        worst_loss = max(worst_loss, float((loss.detach() - expected[f"loss{step}"]).abs()))
        if rank:
            loss = loss + LAMBDA * rank_loss_of(model, expected["rank_names"][step].split(".")[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step + 1 == SWITCH and switch:
            tuner.progressive_switch()
        if step in (2, 5):
            differences = [(t - expected[f"t{step}.{n}"]).abs().max() for n, t in effective(model).items() if f"t{step}.{n}" in expected]
            assert len(differences) == len([k for k in expected if k.startswith(f"t{step}.")])
            worst_entry = max(worst_entry, float(torch.stack(differences).max()))
    return worst_loss, worst_entry


@pytest.mark.parametrize(
    ("file", "decay", "rank", "settings"),
    [
        ("06_dense_norank", DECAY, False, EVERYTHING),
        ("07_dense_rank", DECAY, True, EVERYTHING),
        ("12_weights_only_norank", DECAY, False, {}),
        ("13_weights_only_rank", DECAY, True, {}),
        ("14_weights_only_norank_wd0", 0.0, False, {}),
    ],
)
def test_trajectory_across_the_switch(file, decay, rank, settings):
    loss, entry = train(file, decay, rank, settings)
    assert loss < 1e-6
    assert entry < 1e-7  # 1e-7, not 1e-6, tells decay of the value from decay of the change


def test_the_trajectory_sees_what_is_left_out():
    """Each of these would pass if the numbers above did not depend on it."""
    assert train("12_weights_only_norank", DECAY, False, {}, switch=False)[1] > 1e-4
    assert train("12_weights_only_norank", DECAY, False, {"decay": "delta"})[1] > 1e-7
    assert train("13_weights_only_rank", DECAY, True, {"rank_on": "delta"})[1] > 1e-4


def test_entries_frozen_at_the_switch():
    model = adapted()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LR, weight_decay=0.0)
    attach(optimizer, model.base_model, DECAY)
    drawn = numbers("13_weights_only_rank")["rank_names"]
    for step in range(SWITCH):
        x, y = batch(step)
        loss = F.cross_entropy(model(x), y) + LAMBDA * rank_loss_of(model, drawn[step].split(".")[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.base_model.progressive_switch()
    frozen = {name: int((~layer.sara_active["default"]).sum()) for name, layer in model.base_model.sara_layers()}
    assert frozen == {"conv": 1, "fc1": 16, "fc2": 11, "head": 1}
