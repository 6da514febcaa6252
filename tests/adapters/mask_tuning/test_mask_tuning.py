"""MASK_TUNING against the numbers of the official layers, what its file holds, and a mask that is planted and found."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_cl.adapters import MaskTuningConfig
from hf_cl.adapters.bits import pack, unpack
from hf_cl.losses import ZeroShotKL
from hf_cl.rules.gradient_dropout import dropped

NUMBERS = np.load(Path(__file__).parents[2] / "reference" / "mask_tuning" / "mask.npz", allow_pickle=False)
THRESHOLD, INIT, RATE = (float(value) for value in NUMBERS["cfg"])


def number(name: str) -> Tensor:
    return torch.tensor(NUMBERS[name], dtype=torch.float64)


def close(got: Tensor, name: str) -> None:
    torch.testing.assert_close(got, number(name), atol=1e-12, rtol=1e-12)


def layer_of(module: nn.Module, scores: Tensor | None = None):
    model = get_peft_model(nn.Sequential(module), MaskTuningConfig(target_modules=["0"], threshold=THRESHOLD, init_value=INIT)).double()
    layer = model.base_model.model[0]
    if scores is not None:
        layer.mask_tuning_scores["default"].data = scores.clone()
    return layer


def test_a_masked_linear_is_the_official_one():
    linear = nn.Linear(9, 6).double()
    linear.load_state_dict({"weight": number("linear.weight"), "bias": number("linear.bias")})
    layer, x = layer_of(linear, number("linear.mask_real")), number("linear.x").requires_grad_()
    assert not layer.mask("default")[0, 0], "a score at the threshold is masked"
    y = layer(x)
    close(y, "linear.y")
    (y * number("linear.up")).sum().backward()
    close(x.grad, "linear.grad_x")
    close(layer.mask_tuning_scores["default"].grad, "linear.grad_mask")
    close(torch.linalg.vector_norm(layer.mask_tuning_scores["default"].detach()), "reg.norm2")


def test_a_masked_convolution_is_the_official_one():
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1).double()
    conv.load_state_dict({"weight": number("conv.weight"), "bias": number("conv.bias")})
    layer = layer_of(conv, number("conv.mask_real"))
    y = layer(number("conv.x"))
    close(y, "conv.y")
    (y * number("conv.up")).sum().backward()
    close(layer.mask_tuning_scores["default"].grad, "conv.grad_mask")


@pytest.mark.parametrize("size", [8, 13, 54])
def test_bits_are_the_official_bytes(size):
    mask = torch.tensor(NUMBERS[f"pack.{size}.mask"].astype(bool))
    assert pack(mask).tolist() == NUMBERS[f"pack.{size}.bytes"].tolist() == np.packbits(mask.numpy()).tolist()
    assert torch.equal(unpack(pack(mask), mask.shape), mask)


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_gradient_dropout_is_the_official_one(strength):
    a, b = number("gdr.grad_a"), number("gdr.grad_b")
    close(dropped(a, b, number(f"gdr.lam{strength}.U"), strength), f"gdr.lam{strength}.grad")
    assert torch.equal(dropped(a, b, number("gdr.lam1.0.U"), 0.0), a)
    assert torch.equal(dropped(a, a, number("gdr.lam1.0.U"), 1.0), a)


def test_five_steps_are_the_official_ones():
    net = nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 6)).double()
    state = {"0.weight": "W1", "0.bias": "b1", "2.weight": "W2", "2.bias": "b2"}
    net.load_state_dict({name: number(f"train.{key}") for name, key in state.items()})
    plain = copy.deepcopy(net)
    config = MaskTuningConfig(target_modules=["0", "2"], threshold=THRESHOLD, init_value=INIT)
    model = get_peft_model(net, config).double()
    scores = [layer.mask_tuning_scores["default"] for _, layer in model.base_model.weight_layers()]
    for i, p in enumerate(scores, 1):
        p.data = number(f"train.m{i}_0")
    text, optimizer = F.normalize(number("train.text"), dim=1), torch.optim.Adam(scores, lr=RATE)

    def logits(of: nn.Module, x: Tensor) -> Tensor:
        return 10 * F.normalize(of(x), dim=1) @ text.T

    for step in range(5):
        x, y = number("train.X")[step], torch.tensor(NUMBERS["train.Y"][step]).long()
        main = F.cross_entropy(logits(model, x), y) + number("train.reg_weight") * sum(torch.linalg.vector_norm(p) for p in scores)
        target = logits(plain, x).softmax(1).detach()
        reference = -(target * logits(model, x).log_softmax(1)).sum(1).mean()
        losses = torch.stack([main, reference]).detach()
        torch.testing.assert_close(losses, number("train.losses")[step], atol=1e-12, rtol=1e-12)
        pairs = zip(torch.autograd.grad(main, scores), torch.autograd.grad(reference, scores), strict=True)
        for i, (p, (a, b)) in enumerate(zip(scores, pairs, strict=True), 1):
            p.grad = dropped(a, b, number(f"train.U{i}_{step}"), 1.0)
        optimizer.step()
    for i, p in enumerate(scores, 1):
        close(p.detach(), f"train.m{i}")


def adapted(**settings) -> PeftModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5))
    return get_peft_model(net, MaskTuningConfig(target_modules=["0", "2"], init_weights=False, **settings))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 6), nn.ReLU(), nn.Linear(6, 5))


def test_the_file_holds_a_bit_per_weight(tmp_path):
    model, x = adapted(), torch.randn(4, 9)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert {key: (tuple(t.shape), t.dtype) for key, t in tensors.items()} == {
        "base_model.model.0.mask_tuning_bits": ((7,), torch.uint8),
        "base_model.model.2.mask_tuning_bits": ((4,), torch.uint8),
    }
    loaded = PeftModel.from_pretrained(plain(), tmp_path)
    assert torch.equal(loaded(x), model(x))
    assert not any("scores" in name for name, _ in loaded.named_parameters())
    loaded.save_pretrained(tmp_path / "again")
    again = load_file(tmp_path / "again" / "adapter_model.safetensors")
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize("sessions", ["continue", "stack"])
@pytest.mark.parametrize("lean", [False, True])
def test_an_adapter_is_trained_on_from_its_bits(tmp_path, sessions, lean):
    model, x = adapted(sessions=sessions), torch.randn(4, 9)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(plain(), tmp_path, is_trainable=True, low_cpu_mem_usage=lean)
    assert torch.equal(again(x), model(x))
    layer = again.base_model.model[0]
    values = layer.mask_tuning_scores["default"].detach().unique().tolist()
    assert values == pytest.approx([0.01] if sessions == "stack" else [0.0, 0.01])
    again(x).sum().backward()
    assert layer.mask_tuning_scores["default"].grad.any()


def test_an_adapter_that_was_loaded_to_predict_gets_scores_when_it_is_to_train(tmp_path):
    model, x = adapted(), torch.randn(4, 9)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(plain(), tmp_path)
    loaded.set_adapter("default")
    assert [p.requires_grad for _, p in loaded.named_parameters() if "scores" in _] == [True, True]
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("sessions", ["continue", "stack"])
def test_a_second_adapter_is_loaded_to_train(tmp_path, sessions):
    saved, x = adapted(sessions=sessions), torch.randn(4, 9)
    saved.save_pretrained(tmp_path)
    model = get_peft_model(plain(), MaskTuningConfig(target_modules=["0"]))
    model.load_adapter(tmp_path, "second", is_trainable=True)
    assert torch.equal(model(x), plain()(x)), "the first is active still"
    model.set_adapter("second")
    assert torch.equal(model(x), saved(x))
    trained = [p for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    model(x).square().sum().backward()
    optimizer.step()
    assert len(trained) == 2 and not torch.equal(model(x), saved(x))
    model.save_pretrained(tmp_path / "again", selected_adapters=["second"])
    again = PeftModel.from_pretrained(plain(), tmp_path / "again" / "second")
    assert torch.equal(again(x), model(x))


def test_bits_of_another_length_are_refused_by_name(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    other = nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 5))
    with pytest.raises(ValueError, match=r"0\.mask_tuning_bits is u8 \[7\]; .* u8 \[8\]"):
        PeftModel.from_pretrained(other, tmp_path)
    state = {"base_model.model.0.mask_tuning_bits": torch.zeros(3, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="MASK_TUNING at 0: 3 bytes of bits for 54 weights"):
        set_peft_model_state_dict(adapted(), state)


def test_what_a_session_masked_stays_masked_under_stack():
    model = adapted(sessions="stack")
    layer = model.base_model.model[0]
    before = layer.mask("default")
    layer.stack("default")
    assert torch.equal(layer.mask("default"), before)
    with torch.no_grad():
        layer.mask_tuning_scores["default"][0] = 0.0
    after = layer.mask("default")
    assert not after[0].any() and not (after & ~before).any() and torch.equal(after[1:], before[1:])


def test_a_weight_is_used_where_all_adapters_use_it():
    model = adapted()
    model.add_adapter("other", MaskTuningConfig(target_modules=["0"], init_weights=False))
    model.base_model.set_adapter(["default", "other"])
    layer = model.base_model.model[0]
    both = layer.mask("default") & layer.mask("other")
    assert both.sum() < layer.mask("default").sum()
    assert torch.equal(layer.effective_weight(["default", "other"]), torch.where(both, layer.get_base_layer().weight, 0.0))
    shares = model.base_model.masked_shares("default")
    assert shares["0"] == pytest.approx(1 - float(layer.mask("default").float().mean()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"init_value": 5e-3}, "must lie above the threshold"), ({"sessions": "both"}, "sessions must be continue or stack")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MaskTuningConfig(**settings)


@pytest.mark.parametrize(("temperature", "mix"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.7)])
def test_the_distance_to_the_zero_shot_predictions_is_the_official_one(temperature, mix):
    student = number("kl.student").requires_grad_()
    ctx = SimpleNamespace(logits=student, frozen=lambda role, view: SimpleNamespace(logits=number("kl.teacher")))
    loss = ZeroShotKL(temperature, mix=mix)(ctx)  # type: ignore[arg-type]
    loss.backward()
    close(student.grad, f"kl.T{temperature}_alpha{mix}.grad")
    if f"kl.T{temperature}_alpha{mix}.loss" in NUMBERS:
        close(loss.detach(), f"kl.T{temperature}_alpha{mix}.loss")


@cache
def planted(seed: int) -> tuple[float, float, float, float]:
    """(accuracy before, after, of a control, planted zeros found): labels come from the base with a tenth of its entries zero."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 24, generator=generator)
    zeros = torch.rand(weight.shape, generator=generator).argsort(1) < 3  # of each row
    x = torch.randn(2000, 24, generator=generator)
    labels = (x @ torch.where(zeros, 0.0, weight).T).argmax(1)
    base = nn.Linear(24, 8, bias=False)
    base.weight.data = weight.clone()
    model = get_peft_model(nn.Sequential(base), MaskTuningConfig(target_modules=["0"]))
    layer, optimizer = model.base_model.model[0], torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def accuracy(w: Tensor) -> float:
        return float(((x[1500:] @ w.T).argmax(1) == labels[1500:]).float().mean())

    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(x[:1500]), labels[:1500]).backward()
        optimizer.step()
    mask = layer.mask("default")
    smallest = weight.abs().flatten().argsort()[: int((~mask).sum())]
    control = weight.clone().flatten().index_fill(0, smallest, 0.0).view_as(weight)
    found = float((~mask & zeros).sum() / zeros.sum())
    return accuracy(weight), accuracy(torch.where(mask, weight, 0.0)), accuracy(control), found


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_mask_is_found(seed):
    before, after, control, found = planted(seed)
    assert after > before + 0.05 and after > control + 0.05
    assert found > 0.6
