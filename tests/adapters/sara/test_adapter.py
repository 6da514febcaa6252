"""What the adapter promises of the forward and backward pass, of merging and of several adapters."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model
from sara_reference import WEIGHTS, Net, adapted, batch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara import SaraLinear, SaraModule
from hf_cl.adapters.sara.sparse_linear import SAMPLES, SPARSE, SparseLinear, cut

VIEWS = (torch.ops.aten.view.default, torch.ops.aten.t.default, torch.ops.aten._unsafe_view.default)
EVERYTHING = {"target_modules": [*WEIGHTS, "norm"], "include_bias_norm": True}
both = pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["weights", "with biases and norms"])


@torch.no_grad()
def perturb(model, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "sara_" in name and "_values" in name:
            p.normal_(0, 1e-2, generator=generator)


@both
def test_starts_as_the_identity(settings):
    x, _ = batch(0)
    assert torch.equal(adapted(**settings)(x), Net()(x))
    assert not torch.equal(adapted(init_weights=False, **settings)(x), Net()(x))


@both
def test_what_each_module_becomes(settings):
    model = adapted(**settings)
    layers = dict(model.base_model.sara_layers())
    assert isinstance(layers["fc1"], SaraLinear) and isinstance(layers["conv"], SaraModule)
    assert ("norm" in layers) == bool(settings)
    counts = model.peft_config["default"].nnz_pattern
    assert model.get_nb_trainable_parameters()[0] == sum(counts.values()) == sum(len(e.values) for _, e in model.base_model.sara_entries())
    assert sum(n for key, n in counts.items() if not key.endswith(".bias")) == 18 + 1024 + 956 + 55


@both
def test_merging_writes_the_selected_entries_and_nothing_else(settings):
    x, _ = batch(0)
    model = adapted(**settings)
    perturb(model)
    want = model(x)
    selected = {f"{n}.{e.name}": e.indices.long() for n, layer in model.base_model.sara_layers() for e in layer.entries("default")}
    merged = copy.deepcopy(model).merge_and_unload()
    assert type(merged.fc1) is nn.Linear and torch.equal(merged(x), want)
    for name, base in Net().named_parameters():
        same = (merged.get_parameter(name) == base).flatten()
        assert not same[selected.get(name, [])].any()
        same[selected.get(name, [])] = True
        assert same.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_unmerging_restores_the_base_to_the_bit(dtype):
    x = batch(0)[0].to(dtype)
    base = Net().to(dtype)
    before = {name: p.detach().clone() for name, p in base.named_parameters()}
    model = get_peft_model(base, SaraConfig(target_modules=list(WEIGHTS), threshold=0.02))
    model.add_adapter("other", SaraConfig(target_modules=["fc1", "fc2"], density=0.3))
    perturb(model)
    model.base_model.set_adapter(["default", "other"])
    want = model(x)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(x), want)
    model.unmerge_adapter()
    for name, layer in model.base_model.sara_layers("default"):
        assert torch.equal(layer.get_base_layer().weight, before[f"{name}.weight"])
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(model(x), Net().to(dtype)(x))


def test_safe_merge_refuses_what_is_not_finite():
    model = adapted()
    with torch.no_grad():
        model.base_model.model.fc2.sara_values["default"][3] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)
    assert model.base_model.model.fc2.get_base_layer().weight.isfinite().all()


@both
def test_two_halves_are_one(settings):
    x, _ = batch(0)
    model = adapted(**settings)
    perturb(model)
    want = model(x)
    model.add_adapter("again", copy.deepcopy(model.peft_config["default"]))
    with torch.no_grad():
        for _, layer in model.base_model.sara_layers("default"):
            for a, b in zip(layer.entries("default"), layer.entries("again"), strict=True):
                b.values.copy_(a.values)
    for name in ("default", "again"):
        model.base_model.set_scale(name, 0.5)
    model.base_model.set_adapter(["default", "again"])
    torch.testing.assert_close(model(x), want)
    assert not torch.equal(model(x), Net()(x))


def test_scaling_moves_along_the_change():
    """Equation 9: the effective weight is linear in the scale, and the gradient of the values is that of the scaled change."""
    model = adapted()
    perturb(model)
    layer = model.base_model.model.fc1
    once = layer.effective_tensors(["default"])["weight"].detach() - layer.get_base_layer().weight
    model.base_model.set_scale("default", 2.0)
    twice = layer.effective_tensors(["default"])["weight"].detach() - layer.get_base_layer().weight
    torch.testing.assert_close(twice, 2 * once, atol=1e-8, rtol=1e-5)
    torch.testing.assert_close(layer.get_delta_weight("default"), twice, atol=1e-8, rtol=1e-5)
    x = torch.randn(5, 72)
    (by_function,) = torch.autograd.grad(layer(x).square().sum(), layer.sara_values["default"])
    dense = F.linear(x, layer.effective_tensors(["default"])["weight"], layer.get_base_layer().bias).square().sum()
    torch.testing.assert_close(by_function, torch.autograd.grad(dense, layer.sara_values["default"])[0], atol=1e-5, rtol=1e-5)


def test_a_weighted_sum_of_adapters_is_exact():
    """Equation 10, on positions that overlap in part and modules that only one adapter has."""
    x, _ = batch(0)
    model = adapted(target_modules=["fc1", "conv"], threshold=0.02)
    model.add_adapter("other", SaraConfig(target_modules=["fc1", "fc2"], density=0.3, include_bias_norm=True))
    perturb(model)
    model.base_model.set_scale("other", 0.5)
    model.base_model.add_weighted_adapter(["default", "other"], [0.6, 0.8], "sum")
    model.set_adapter("sum")
    got = model(x)
    for name, scale in (("default", 0.6), ("other", 0.4)):
        model.base_model.set_scale(name, scale)
    model.base_model.set_adapter(["default", "other"])
    torch.testing.assert_close(got, model(x))
    positions = {name: set(i.tolist()) for name, i in model.base_model.model.fc1.sara_indices.items()}
    assert positions["sum"] == positions["default"] | positions["other"]


def test_wrong_sums_are_refused():
    model = adapted()
    wrong = [(["default"], [1.0, 2.0], "new"), (["gone"], [1.0], "new"), (["default"], [1.0], "default"), ([], [], "new")]
    for adapters, weights, name in wrong:
        with pytest.raises(ValueError, match="add_weighted_adapter wants a new name"):
            model.base_model.add_weighted_adapter(adapters, weights, name)


@pytest.mark.parametrize("block_rows", [0, 3])
def test_gradients_by_finite_differences(block_rows):
    torch.manual_seed(0)
    weight, bias, x = (torch.randn(*s, dtype=torch.float64) for s in ((7, 5), (7,), (2, 3, 5)))
    indices = torch.tensor([0, 4, 5, 17, 30, 34], dtype=torch.int32)
    active = torch.ones(6, dtype=torch.bool)
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    blocks = cut(indices, 7, 5, block_rows) if block_rows else None
    x.requires_grad_(), bias.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, v: SparseLinear.apply(a, weight, b, indices, active, v, 1.5, blocks), (x, bias, values))


@pytest.mark.parametrize("density", [0.0, 0.02, SPARSE, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_of_the_entries_is_that_of_the_dense_product(density, dtype):
    """Whichever way it is computed; the batch is longer than what a sparse product takes at a time."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, 24, generator=generator).to(dtype)
    x, g = (torch.randn(2 * SAMPLES + 10, n, generator=generator).to(dtype) for n in (24, 40))
    indices = torch.randperm(960, generator=generator)[: int(density * 960)].sort().values.to(torch.int32)
    values = torch.zeros(len(indices), dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
    SparseLinear.apply(x, weight, None, indices, torch.ones(len(indices), dtype=torch.bool), values, 1.0, None).backward(g)
    want = (g.T @ x).flatten()[indices.long()].to(values.dtype)
    torch.testing.assert_close(values.grad, want, rtol=0, atol={torch.float64: 1e-12, torch.float32: 1e-4}.get(dtype, 0.0))


def test_a_sparse_gradient_computes_the_entries_alone():
    """At a density up to `SPARSE` no operation makes a tensor as large as the weight, but the effective weight itself."""

    class Sizes(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[int] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.layout == torch.strided and func not in VIEWS:
                self.found.append(out.numel())
            return out

    x, g = torch.randn(4, 64), torch.randn(4, 512)
    counts = []
    for count in (100, 20000):
        indices = torch.randperm(512 * 64)[:count].sort().values.to(torch.int32)
        values = torch.zeros(count, requires_grad=True)
        y = SparseLinear.apply(x, torch.randn(512, 64), None, indices, torch.ones(count, dtype=torch.bool), values, 1.0, None)
        with Sizes() as sizes:
            y.backward(g)  # the input needs no gradient, so the effective weight is not built again
        counts.append(sum(size >= 512 * 64 for size in sizes.found))
    assert counts == [0, 1]


def test_entries_that_rest_get_the_gradient_zero_everywhere():
    x, y = batch(0)
    model = adapted(**EVERYTHING)
    for _, layer in model.base_model.sara_layers():
        for e in layer.entries("default"):
            e.active[::2] = False
    F.cross_entropy(model(x), y).backward()
    for _, layer in model.base_model.sara_layers():
        for e in layer.entries("default"):
            assert not e.values.grad[::2].any()
            assert len(e.values) < 2 or e.values.grad[1::2].any()


def test_a_second_derivative_is_refused_rather_than_wrong():
    model = adapted()
    x, y = batch(0)
    values = model.base_model.model.fc1.sara_values["default"]
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), values, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


def saved_bytes(run, owned) -> int:
    """Bytes kept for the backward pass by `run`, apart from the storages of `owned` tensors."""
    known = {t.untyped_storage().data_ptr() for t in owned}
    found: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        kept = run()
    assert kept is not None
    return sum(found.values())


@pytest.mark.parametrize("block_rows", [0, 16])
def test_nothing_is_kept_but_the_input(block_rows):
    linear = nn.Linear(64, 128)
    model = get_peft_model(nn.Sequential(linear), SaraConfig(target_modules=["0"], density=0.5, block_rows=block_rows))
    x = torch.randn(4, 64)
    owned = [x, *model.parameters(), *model.buffers()]
    assert saved_bytes(lambda: model(x), owned) == 0
    model.base_model.set_requires_grad("default", False)
    kept = []
    hidden = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(hidden)
    assert not any(t.untyped_storage().data_ptr() == hidden.untyped_storage().data_ptr() for t in kept)  # a resting adapter needs no input


def test_bfloat16_autocast():
    x, y = batch(0)
    model = adapted(**EVERYTHING)
    perturb(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        loss = F.cross_entropy(out, y)
    loss.backward()
    assert out.dtype == torch.bfloat16
    exact = copy.deepcopy(model)
    exact.zero_grad()
    F.cross_entropy(exact(x), y).backward()
    for p, q in zip(model.parameters(), exact.parameters(), strict=True):
        if p.requires_grad:
            assert p.dtype == p.grad.dtype == torch.float32
            torch.testing.assert_close(p.grad, q.grad, atol=0.02, rtol=0.1)


def test_a_float64_base_is_not_rounded():
    layer = get_peft_model(nn.Sequential(nn.Linear(6, 4).double()), SaraConfig(target_modules=["0"], density=0.5)).base_model.model[0]
    assert layer.sara_values["default"].dtype == torch.float32
    assert torch.equal(layer.effective_tensors(["default"])["weight"], layer.get_base_layer().weight)


def test_a_half_precision_base_keeps_small_changes_of_the_values():
    """v is float32 although W is bfloat16: 100 steps of 1e-6 are seen, where a bfloat16 parameter of 1e-3 would not move."""
    layer = get_peft_model(nn.Sequential(nn.Linear(6, 4).bfloat16()), SaraConfig(target_modules=["0"], density=0.5)).base_model.model[0]
    optimizer = torch.optim.SGD([layer.sara_values["default"]], lr=1e-6)
    with torch.no_grad():
        layer.sara_values["default"].fill_(1e-3)
    for _ in range(100):
        layer.sara_values["default"].grad = torch.ones_like(layer.sara_values["default"])
        optimizer.step()
    torch.testing.assert_close(layer.sara_values["default"], torch.full_like(layer.sara_values["default"], 9e-4), atol=1e-6, rtol=0)


def test_a_layer_without_entries_rests_and_saves(tmp_path):
    base = Net()
    with torch.no_grad():
        base.fc2.weight.fill_(1.0)
    model = get_peft_model(base, SaraConfig(target_modules=list(WEIGHTS), threshold=0.02, block_rows=8))
    assert len(model.base_model.model.fc2.sara_values["default"]) == 0
    x, y = batch(0)
    F.cross_entropy(model(x), y).backward()
    model.base_model.progressive_switch()
    model.save_pretrained(tmp_path)
    assert model.base_model.model.fc2.sara_values["default"].grad.shape == (0,)


def test_positions_and_marks_are_not_cast():
    model = adapted().half()
    assert model.base_model.model.fc1.sara_indices["default"].dtype == torch.int32
    assert model.base_model.model.fc1.sara_active["default"].dtype == torch.bool


def test_the_counts_are_printed():
    assert "default: 1024 of 5760 entries (17.78%)" in repr(adapted())


def test_mixed_batches_are_refused():
    x, _ = batch(0)
    with pytest.raises(NotImplementedError, match="mixed adapters"):
        adapted().eval()(x, adapter_names=["default"] * 4)


def test_any_number_of_leading_dimensions():
    model = adapted()
    perturb(model)
    layer = model.base_model.model.fc1
    x = torch.randn(2, 3, 72)
    torch.testing.assert_close(layer(x), torch.stack([layer(row) for row in x]))
    torch.testing.assert_close(layer(x[0, 0]), layer(x)[0, 0])
    assert layer(x[:0]).shape == (0, 3, 80)
