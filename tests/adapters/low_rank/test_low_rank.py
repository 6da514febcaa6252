"""LOW_RANK and its losses against the numbers of the official stage, what merging writes, and what the stage brings back."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model
from tiny import NAMES, base, images
from torch import Tensor, nn

from hf_cl.adapters import LowRankConfig
from hf_cl.adapters.low_rank_linear import LowRankLinear
from hf_cl.contracts import Context, Outputs
from hf_cl.losses import FeatureMatch, WeightDeviation

NUMBERS = np.load(Path(__file__).parents[2] / "reference" / "pela" / "pela.npz", allow_pickle=False)
EPS, RATE = (float(value) for value in NUMBERS["train.cfg"])
PARTS = {"0.weight": "down", "1.weight": "up", "1.bias": "bias"}
"""Name in the official pair -> that of the adapter's tensor."""


def number(name: str) -> Tensor:
    return torch.tensor(NUMBERS[name], dtype=torch.float64)


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)


def net(*widths: int) -> nn.Sequential:
    pairs = [(nn.Linear(a, b), nn.GELU()) for a, b in pairwise(widths)]
    return nn.Sequential(*[module for pair in pairs for module in pair][:-1])


def tensors(model: nn.Module, official: str) -> nn.Parameter:
    layer, _, part = official.partition(".")
    return dict(model.named_parameters())[f"base_model.model.{layer}.low_rank_{PARTS[part]}.default"]


def outputs(model: nn.Module, x: Tensor, activations: list[Tensor]) -> Outputs:
    activations.clear()
    logits = model(x)
    return Outputs(logits, logits, logits, {f"block_{k}": activation for k, activation in enumerate(activations)})


def losses_of(model: nn.Module, match: FeatureMatch, deviation: WeightDeviation, activations: list[Tensor], x, y):
    """Cross-entropy, feature match and deviation, and the student's outputs, on one batch."""
    ours = outputs(model, x, activations)

    def frozen(role: str, view: int) -> Outputs:
        with torch.no_grad(), model.base_model.role(role):
            return outputs(model, x, activations)

    ctx = Context({"labels": y}, (ours,), session=None, epoch=0, step=0, frozen=frozen)  # type: ignore[arg-type]
    return F.cross_entropy(ours.logits, y), match(ctx), deviation(ctx)


def watched(model: nn.Module) -> list[Tensor]:
    """What the GELUs gave, filled in by each forward."""
    found: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.GELU):
            module.register_forward_hook(lambda module, inputs, output: found.append(output))
    return found


def test_four_steps_of_the_stage_are_the_official_ones():
    teacher = net(12, 20, 20, 10).double()
    teacher.load_state_dict({name: number(f"train.teacher.{name}") for name in teacher.state_dict()})
    ratio = float(NUMBERS["ratio"])
    model = get_peft_model(teacher, LowRankConfig(target_modules=["0", "2", "4"], ratio=ratio))
    init = [name.removeprefix("train.init.") for name in NUMBERS.files if name.startswith("train.init.")]
    with torch.no_grad():
        for name in init:
            found, want = tensors(model, name), number(f"train.init.{name}")
            assert found.shape == want.shape and found.dtype == torch.float64
            found.copy_(want)
    match, deviation, activations = FeatureMatch(0.1), WeightDeviation(eps=EPS), watched(model)
    deviation.begin_session(SimpleNamespace(tuner=model.base_model), None)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    for step in range(4):
        y = torch.tensor(NUMBERS["train.Y"][step]).long()
        ce, features, weights = losses_of(model, match, deviation, activations, number("train.X")[step], y)
        close(torch.stack([ce, features, weights]).detach(), number("train.losses")[step])
        optimizer.zero_grad()
        (ce + match.weight * features + weights).backward()
        if step == 0:
            for name in init:
                close(tensors(model, name).grad, number(f"train.grad0.{name}"))
        optimizer.step()
    for name in init:
        close(tensors(model, name).detach(), number(f"train.final.{name}"))


def test_the_deviation_is_that_of_the_whole_matrix():
    model = get_peft_model(net(12, 20, 20, 10).double(), LowRankConfig(target_modules=["0", "2"]))
    layer = model.base_model.model[0]
    found = layer.largest_error("default")
    down, up = layer.low_rank_down["default"], layer.low_rank_up["default"]
    whole = (up @ down - layer.get_base_layer().weight).abs().max()
    close(found, whole)
    for got, want in zip(torch.autograd.grad(found, [down, up]), torch.autograd.grad(whole, [down, up]), strict=True):
        close(got, want)
    assert model.base_model.largest_errors().shape == (2,)


@cache
def cosine(seed: int, start: str) -> tuple[float, float]:
    """Of the features to those of a teacher of three random layers, on inputs of rank 8: before and after 200 steps of distillation."""
    torch.manual_seed(seed)
    teacher = net(24, 48, 48, 48)
    low = torch.randn(8, 24)
    model = get_peft_model(copy.deepcopy(teacher), LowRankConfig(target_modules=["0", "2", "4"], ratio=4.0, init_weights=start == "svd"))
    activations, match = watched(model), FeatureMatch()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    test = torch.randn(256, 8) @ low

    def now() -> float:
        with torch.no_grad():
            a, b = (F.gelu(one(test)) for one in (model, teacher))
            return float(F.cosine_similarity(a - b.mean(0), b - b.mean(0)).mean())

    first = now()
    for _ in range(200):
        x = torch.randn(64, 8) @ low
        ours = outputs(model, x, activations)
        with torch.no_grad(), model.base_model.role("pretrained"):
            theirs = outputs(model, x, activations)
        ours.extras["block_2"], theirs.extras["block_2"] = F.gelu(ours.logits), F.gelu(theirs.logits)  # type: ignore[index]
        ctx = Context({}, (ours,), session=None, epoch=0, step=0, frozen=lambda role, view, theirs=theirs: theirs)  # type: ignore[arg-type]
        optimizer.zero_grad()
        match(ctx).backward()
        optimizer.step()
    return first, now()


@pytest.mark.parametrize("seed", range(5))
def test_distillation_brings_the_features_back_and_the_decomposition_helps(seed):
    before, after = cosine(seed, "svd")
    _, from_random = cosine(seed, "random")
    assert after > before + 0.4 and after > from_random + 0.05


def test_merging_writes_the_product_and_the_bias_and_unmerging_the_base_to_the_bit():
    model = get_peft_model(net(12, 20, 20, 10), LowRankConfig(target_modules=["0", "2"]))
    x, layer = torch.randn(5, 12), model.base_model.model[0]
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    before = [p.clone() for p in layer.get_base_layer().parameters()]
    want = model(x)
    model.merge_adapter(safe_merge=True)
    with pytest.warns(UserWarning, match="already merged"):
        model.merge_adapter()  # a second time changes nothing
    torch.testing.assert_close(model(x), want, atol=1e-5, rtol=1e-5)
    assert torch.equal(layer.get_base_layer().bias, layer.low_rank_bias["default"])
    model.unmerge_adapter()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.get_base_layer().parameters(), strict=True))
    model.merge_adapter()
    with model.disable_adapter():
        torch.testing.assert_close(model(x), F.linear(F.gelu(F.linear(F.gelu(F.linear(x, *before)), *rest(model, 2))), *rest(model, 4)))
    merged = model.merge_and_unload()
    assert type(merged[0]) is nn.Linear and int(torch.linalg.matrix_rank(merged[0].weight, atol=1e-5)) == 3
    torch.testing.assert_close(merged(x), want, atol=1e-5, rtol=1e-5)


def rest(model: nn.Module, place: int) -> list[Tensor]:
    """Weight and bias of the original Linear there."""
    module = model.base_model.model[place]
    return [*(module.get_base_layer() if hasattr(module, "get_base_layer") else module).parameters()]


def test_safe_merge_refuses_what_is_not_finite():
    model = get_peft_model(net(12, 20, 10), LowRankConfig(target_modules=["0"]))
    with torch.no_grad():
        model.base_model.model[0].low_rank_up["default"].fill_(float("nan"))
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_keeps_its_dtype_outside(dtype):
    model = get_peft_model(net(12, 20, 10).to(dtype), LowRankConfig(target_modules=["0"]))
    out = model(torch.randn(3, 12, dtype=dtype))
    out.float().sum().backward()
    layer = model.base_model.model[0]
    assert out.dtype == dtype and layer.low_rank_up["default"].dtype == layer.low_rank_up["default"].grad.dtype == torch.float32
    assert layer.pair("default").up.weight.dtype == dtype


def test_under_autocast_the_factors_run_in_its_precision():
    model = get_peft_model(net(12, 20, 10), LowRankConfig(target_modules=["0", "2"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.randn(3, 12))
    out.float().square().sum().backward()
    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_the_compressed_base_has_the_adapters_factors():
    model = get_peft_model(base("vit"), LowRankConfig(class_names=NAMES[:3])).eval()
    pairs = model.base_model.pairs()
    whole, pair = pairs["vit.layers.0.mlp.fc1"], model.base_model.model.vit.layers[0].mlp.fc1
    assert type(whole) is LowRankLinear and len(pairs) == 36
    x = torch.randn(2, 32)
    assert torch.equal(whole(x), pair(x))
    with torch.no_grad():
        pair.low_rank_up["default"].zero_()
    assert whole.up.weight.any(), "they are copies"


def test_two_adapters_that_hold_factors_of_one_module_are_not_active_together():
    model = get_peft_model(net(12, 20, 20, 10), LowRankConfig(target_modules=["0", "2"]))
    model.add_adapter("other", LowRankConfig(target_modules=["2"], ratio=4.0))
    model.add_adapter("third", LowRankConfig(target_modules=["4"]))
    for act in (model.base_model.set_adapter, model.merge_adapter):
        with pytest.raises(ValueError, match=r"both hold factors of '2'"):
            act(["default", "other"])
    assert model.active_adapters == ["default"]
    model.base_model.set_adapter(["default", "third"])
    model(torch.randn(2, 12)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_role_is_the_original_under_the_adapters_head():
    plain = base("vit", labels=3)
    model = get_peft_model(plain, LowRankConfig(class_names=NAMES[:3]))
    features = base("vit", labels=3).vit(images()).last_hidden_state[:, 0]
    head = model.base_model.head_wrapper().head("default")
    with torch.no_grad():
        theirs = model(images()).logits
        with model.base_model.role("pretrained"):
            assert torch.equal(model(images()).logits, head(features))
        assert torch.equal(model(images()).logits, theirs) and not torch.equal(theirs, head(features))


def test_what_is_refused(tmp_path):
    def on(module: nn.Module, **settings):
        return get_peft_model(nn.ModuleDict({"inner": module}), LowRankConfig(target_modules=["inner"], **settings))

    with pytest.raises(ValueError, match=r"LOW_RANK adapts nn.Linear; 'inner' is a Conv2d"):
        on(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="fewer than 10 outputs"):
        on(nn.Linear(12, 4))
    with pytest.raises(ValueError, match=r"ratio 40.0 leaves 'inner' no rank at all; at most 5.5 does"):
        on(nn.Linear(10, 12), ratio=40.0)
    with pytest.raises(ValueError, match="compressed already"):
        on(LowRankLinear(12, 12, 3))
    for ratio in (1.0, 0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"ratio must be above 1|ratio cannot be"):
            LowRankConfig(ratio=ratio)
    with pytest.raises(ValueError, match="eps must not be negative"):
        WeightDeviation(eps=-1.0)
    other = SimpleNamespace(tuner=nn.Linear(1, 1))
    for loss in (FeatureMatch(), WeightDeviation()):
        with pytest.raises(ValueError, match="needs a LOW_RANK adapter; this run has a Linear"):
            loss.begin_session(other, None)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no session has begun"):
        WeightDeviation()(None)  # type: ignore[arg-type]


def test_random_factors_of_a_file_are_loaded_over_the_decomposition(tmp_path):
    model = get_peft_model(net(12, 20, 10), LowRankConfig(target_modules=["0"], init_weights=False))
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = PeftModel.from_pretrained(net(12, 20, 10), tmp_path, is_trainable=True).base_model.model[0]
    for part in ("down", "up", "bias"):
        name = f"low_rank_{part}"
        assert torch.equal(getattr(again, name)["default"], getattr(model.base_model.model[0], name)["default"])
