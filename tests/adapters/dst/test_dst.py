"""DST as an adapter: sessions, rewirings that keep counts, what its file may hold."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn

from hf_cl.adapters import DstConfig
from hf_cl.methods import DstSettings
from hf_cl.methods.dst import Rewire


def base() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 6))


def adapted(**settings) -> PeftModel:
    return get_peft_model(base(), DstConfig(**{"target_modules": ["0", "2"], "density": 0.2, "init_weights": False, **settings}))


def layers(model):
    return dict(model.base_model.weight_layers())


@pytest.mark.parametrize("growth", ["gradient", "random", "random_unfired"])
def test_a_thousand_rewirings_keep_counts_and_what_earlier_sessions_own(growth):
    config = DstConfig(target_modules=["0", "2"], density=0.2, growth=growth)
    model = get_peft_model(base(), config)
    for layer in layers(model).values():
        layer.grow("default", config, 1)
    tuner, generator = model.base_model, torch.Generator().manual_seed(0)
    kept = {
        name: (layer.dst_kept_indices["default"].clone(), layer.dst_kept_values["default"].clone()) for name, layer in layers(model).items()
    }
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    x, seen = torch.randn(8, 12), set()
    for step in range(1000 if growth == "random" else 100):
        tuner.keep_dense(growth == "gradient")
        if growth == "gradient" or step % 10 == 0:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
        tuner.rewire(0.3, lambda n: torch.randperm(n, generator=generator), optimizer, lambda g: g)
        for name, layer in layers(model).items():
            indices = layer.dst_indices["default"]
            assert len(indices) == config.nnz_pattern[name] and bool((indices[1:] > indices[:-1]).all())
            assert not torch.isin(indices, kept[name][0]).any()
            seen |= {(name, int(i)) for i in indices}
    for name, layer in layers(model).items():
        assert torch.equal(layer.dst_kept_indices["default"], kept[name][0])
        assert torch.equal(layer.dst_kept_values["default"], kept[name][1])
    assert len(seen) > 1.5 * sum(config.nnz_pattern.values())


def test_moments_follow_their_entries_and_new_ones_start_at_nothing():
    model = adapted(growth="random")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model(torch.randn(8, 12)).square().sum().backward()
    optimizer.step()
    layer = layers(model)["0"]

    def entries() -> dict[int, tuple[float, float]]:
        """Position -> value and first moment."""
        values = layer.dst_values["default"]
        pairs = zip(values.tolist(), optimizer.state[values]["exp_avg"].tolist(), strict=True)
        return dict(zip(layer.dst_indices["default"].tolist(), pairs, strict=True))

    before = entries()
    changed = model.base_model.rewire(0.5, torch.randperm, optimizer, lambda g: g)
    after = entries()
    assert changed > 0 and len(after) == len(before)
    stayed = [i for i in after if after[i] != (0.0, 0.0)]
    assert stayed and all(after[i] == before[i] for i in stayed)
    smallest = min(abs(before[i][0]) for i in stayed)
    assert all(abs(before[i][0]) <= smallest for i in before.keys() - after.keys())


def test_the_dense_gradient_is_that_of_all_micro_batches():
    model, x = adapted(), torch.randn(8, 12)
    model.base_model.keep_dense(True)
    for half in x.split(4):
        model(half).square().sum().backward()
    whole = base()
    linear = layers(model)["2"]
    weight = linear.effective_weight(["default"]).detach().requires_grad_()
    hidden = torch.tanh(layers(model)["0"](x)).detach()
    nn.functional.linear(hidden, weight, whole[2].bias).square().sum().backward()
    torch.testing.assert_close(linear.dense["default"], weight.grad)
    model.base_model.keep_dense(False)
    assert not linear.dense


def test_a_session_is_as_it_was_when_it_ended(tmp_path):
    model, x = adapted(), torch.randn(4, 12)
    model.peft_config["default"].classes_per_session = [1]
    ends = [model(x).detach()]
    for session in (1, 2):
        model.peft_config["default"].classes_per_session.append(1)
        for layer in layers(model).values():
            layer.grow("default", model.peft_config["default"], session)
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.normal_(0, 0.1)
        ends.append(model(x).detach())
    assert model.base_model.roles == ("session-0", "session-1", "session-2")
    for role, want in zip(model.base_model.roles, ends, strict=True):
        with model.base_model.role(role):
            assert torch.equal(model(x), want), role
    assert torch.equal(model(x), ends[-1]) and not torch.equal(ends[0], ends[1])
    model.peft_config["default"].class_names = ["a", "b", "c"]
    state = get_peft_model_state_dict(model)
    assert state["base_model.model.0.dst_kept_values"].shape == (2, 24)


def test_too_many_sessions_are_refused():
    model = adapted(density=0.6)
    with pytest.raises(ValueError, match=r"DST: session 1 finds 48 free weights at 0 and needs 72"):
        layers(model)["0"].grow("default", model.peft_config["default"], 1)


def beyond(state):
    state["base_model.model.0.dst_indices"][-1] = 120


def shuffled(state):
    state["base_model.model.0.dst_indices"] = state["base_model.model.0.dst_indices"].flip(0).contiguous()


@pytest.mark.parametrize(("change", "message"), [(beyond, "position 120 is beyond the 120 entries"), (shuffled, "not sorted and distinct")])
def test_a_damaged_file_is_refused(tmp_path, change, message):
    model, x = adapted(), torch.randn(4, 12)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(base(), tmp_path)(x), model(x))
    path = tmp_path / "adapter_model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base(), tmp_path)


def test_first_positions_are_a_function_of_the_seed():
    first, again, other = (layers(adapted(seed=seed))["0"].dst_indices["default"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"density": 1.0}, "density must lie"), ({"death": "old"}, "death must be one of"), ({"growth": "momentum"}, "growth must be one of")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DstConfig(**settings)


def test_rewire_says_what_it_needs():
    with pytest.raises(ValueError, match="Rewire: every"):
        Rewire(1, every=0)
    with pytest.raises(ValueError, match="Rewire: every"):
        DstSettings(death_rate=1.0).method()
