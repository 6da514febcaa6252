"""The progressive switch, the hooks on the optimizer, sessions and resumption, with torch alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from sara_reference import INPUTS, WEIGHTS, Net, adapted, batch
from torch import nn

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara import attach, sara_lr

EVERYTHING = {"target_modules": [*WEIGHTS, "norm"], "include_bias_norm": True}
DECAY = float(INPUTS["weight_decay"])


def adamw(model, decay: float = DECAY, lr: float = 1e-3) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    attach(optimizer, model.base_model, decay)
    return optimizer


def train(model, optimizer, steps) -> None:
    for step in steps:
        x, y = batch(step % 6)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def entries(model) -> list[torch.Tensor]:
    return [e.values.detach().clone() for _, e in model.base_model.sara_entries()]


def test_stopped_entries_stay_through_momentum_and_decay():
    model = adapted(**EVERYTHING)
    optimizer = adamw(model)
    train(model, optimizer, range(4))
    left = model.base_model.progressive_switch()
    assert 0 < left < model.base_model.active_entries()[1]
    active = [e.active.clone() for _, e in model.base_model.sara_entries()]
    before = entries(model)
    train(model, optimizer, range(4))
    for was, now, goes_on in zip(before, entries(model), active, strict=True):
        assert torch.equal(was[~goes_on], now[~goes_on])
        assert not goes_on.any() or not torch.equal(was[goes_on], now[goes_on])


def test_the_switch_stops_what_has_reached_the_threshold_and_nothing_comes_back():
    model = adapted(**EVERYTHING)
    train(model, adamw(model), range(4))
    inside = [((e.base_values() + e.values).abs() < 0.02).clone() for _, e in model.base_model.sara_entries()]
    assert model.base_model.progressive_switch() == sum(int(i.sum()) for i in inside)
    assert all(torch.equal(e.active, i) for (_, e), i in zip(model.base_model.sara_entries(), inside, strict=True))
    with torch.no_grad():
        for _, e in model.base_model.sara_entries():
            e.values.zero_()
    model.base_model.progressive_switch()
    assert all(torch.equal(e.active, i) for (_, e), i in zip(model.base_model.sara_entries(), inside, strict=True))


def test_with_a_density_each_tensor_has_the_threshold_it_was_selected_with():
    model = adapted(density=0.1)
    assert model.base_model.selected_threshold() == pytest.approx(
        sum(float(e.base_values().abs().max()) for _, e in model.base_model.sara_entries()) / 4
    )
    layer, e = next((layer, e) for layer, e in model.base_model.sara_entries() if layer.module_name == "fc1")
    limit = e.base_values().abs().max()
    with torch.no_grad():
        e.values[0] = limit - e.base_values()[0]  # lands on the threshold, which is out
        e.values[1] = 0.999 * limit - e.base_values()[1]
    model.base_model.progressive_switch()
    assert not e.active[0] and e.active[1]
    assert layer.num_active("default") == int(e.active.sum())


def test_the_decay_is_that_of_the_weight_itself():
    """On the selected entries, stock AdamW on the dense weights does the same."""
    model = adapted()
    optimizer = adamw(model, decay=0.1)
    dense = Net()
    plain = torch.optim.AdamW(dense.parameters(), lr=1e-3, weight_decay=0.1)
    for step in range(1):  # after it the unselected entries of the dense network have moved
        x, y = batch(step)
        for each, opt in ((model, optimizer), (dense, plain)):
            F.cross_entropy(each(x), y).backward()
            opt.step()
            opt.zero_grad()
    for name, layer in model.base_model.sara_layers():
        e = layer.entries("default")[0]
        moved = dense.get_parameter(f"{name}.weight").flatten()[e.indices.long()]
        torch.testing.assert_close(e.base_values() + e.values, moved, atol=1e-8, rtol=0)


def test_a_parameter_without_gradient_does_not_decay():
    model = adapted(init_weights=False)
    optimizer = adamw(model, decay=0.5)
    before = entries(model)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, entries(model), strict=True))


def test_each_group_decays_at_its_own_current_rate():
    model = adapted(target_modules=["fc1", "fc2"], init_weights=False)
    groups = [{"params": [e.values], "lr": lr} for (_, e), lr in zip(model.base_model.sara_entries(), (0.0, 0.5), strict=True)]
    optimizer = torch.optim.SGD(groups, weight_decay=0.0)
    attach(optimizer, model.base_model, 1.0)
    optimizer.param_groups[0]["lr"] = 0.25
    before = entries(model)
    for _, e in model.base_model.sara_entries():
        e.values.grad = torch.zeros_like(e.values)
    optimizer.step()
    for (_, e), was, lr in zip(model.base_model.sara_entries(), before, (0.25, 0.5), strict=True):
        torch.testing.assert_close(e.values, was * (1 - lr) - e.base_values() * lr, atol=1e-8, rtol=1e-6)


def test_attaching_is_checked_and_undone():
    model = adapted()
    parameters = [p for p in model.parameters() if p.requires_grad]
    with pytest.raises(ValueError, match="decay would act twice"):
        attach(torch.optim.AdamW(parameters, weight_decay=0.1), model.base_model, 0.1)
    with pytest.raises(ValueError, match="none of the SARA adapter's parameters"):
        attach(torch.optim.AdamW([nn.Parameter(torch.zeros(1))]), model.base_model, 0.0)
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    for handle in attach(optimizer, model.base_model, 1.0):
        handle.remove()
    before = entries(model)
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, entries(model), strict=True))


def test_resuming_across_the_switch_equals_going_on():
    """Values, marks and the optimizer's state are all that a checkpoint needs."""
    straight = adapted(**EVERYTHING)
    optimizer = adamw(straight)
    train(straight, optimizer, range(3))
    straight.base_model.progressive_switch()
    train(straight, optimizer, range(3, 5))
    state, optimizer_state = copy.deepcopy(straight.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(straight, optimizer, range(5, 9))

    resumed = adapted(**EVERYTHING)
    again = adamw(resumed)
    resumed.load_state_dict(state)
    again.load_state_dict(optimizer_state)
    train(resumed, again, range(5, 9))
    assert all(torch.equal(a, b) for a, b in zip(entries(straight), entries(resumed), strict=True))


def test_two_micro_batches_are_one_batch():
    x, y = batch(0)
    whole, halves = adapted(**EVERYTHING), adapted(**EVERYTHING)
    F.cross_entropy(whole(x), y).backward()
    for part in (slice(0, 2), slice(2, 4)):
        (F.cross_entropy(halves(x[part]), y[part]) / 2).backward()
    for (_, a), (_, b) in zip(whole.base_model.sara_entries(), halves.base_model.sara_entries(), strict=True):
        torch.testing.assert_close(a.values.grad, b.values.grad, atol=1e-7, rtol=1e-4)


def test_training_a_merged_adapter_is_refused():
    model = adapted()
    model.merge_adapter()
    with pytest.raises(RuntimeError, match=r"has merged adapters; call unmerge_adapter\(\)"):
        model.base_model.progressive_switch()


def test_one_adapter_at_a_time():
    model = adapted()
    model.add_adapter("other", SaraConfig(target_modules=["fc1"], density=0.1))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="one adapter at a time; name one"):
        model.base_model.progressive_switch()
    assert model.base_model.active_entries("other") == (576, 576)


@pytest.mark.parametrize("settings", [{"threshold": 1e-9}, {"threshold": 100.0}], ids=["nothing", "everything"])
def test_a_threshold_that_selects_nothing_or_everything_is_refused(settings):
    with pytest.raises(ValueError, match=r"threshold=.* selects (0|11586) of the 11586 entries .* Give density"):
        adapted(**settings)


def test_learning_rate_falls_with_the_threshold():
    assert sara_lr(2e-3) == pytest.approx(4.966e-4, rel=1e-4)


@pytest.mark.parametrize("on", ["value", "delta"])
def test_the_rank_term_of_a_zero_change_has_no_gradient(on):
    model = adapted(rank_on=on, rank_mode="all")
    loss = model.base_model.rank_loss(0)
    loss.backward()
    gradients = [e.values.grad for layer, e in model.base_model.sara_entries() if layer.module_name in ("fc1", "fc2")]
    assert all(g.isfinite().all() for g in gradients)
    assert any(g.any() for g in gradients) == (on == "value")
    assert (loss.item() == 0) == (on == "delta")


def test_the_rank_term_draws_by_step_and_sums_in_mode_all():
    one, everything = adapted(), adapted(rank_mode="all")
    draws = [one.base_model.rank_loss(step).item() for step in range(20)]
    assert draws == [one.base_model.rank_loss(step).item() for step in range(20)]
    assert len(set(draws)) == 2
    assert everything.base_model.rank_loss(0).item() == pytest.approx(sum(set(draws)), rel=1e-6)


def test_the_rank_term_leaves_out_what_has_stopped():
    model = adapted(rank_mode="all")
    whole = model.base_model.rank_loss(0).item()
    layers = dict(model.base_model.sara_layers())
    layers["fc1"].sara_active["default"][100:] = False  # 100 are left: not more than rank_min_nnz
    layers["fc2"].sara_active["default"][1::2] = False
    loss = model.base_model.rank_loss(0)
    loss.backward()
    assert 0 < loss.item() < whole
    assert layers["fc1"].sara_values["default"].grad is None
    assert not layers["fc2"].sara_values["default"].grad[1::2].any()
    layers["fc2"].sara_active["default"].zero_()
    assert model.base_model.rank_loss(0).item() == 0


def test_a_rank_term_with_nothing_to_work_on_says_so():
    with pytest.raises(ValueError, match="no adapted matrix has both sides above 64"):
        get_peft_model(nn.Sequential(nn.Linear(64, 64)), SaraConfig(target_modules=["0"], density=0.5)).base_model.rank_loss(0)
