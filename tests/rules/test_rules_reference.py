"""Every rule against the reference numbers of tests/reference/glad: one LoRA layer in float32 (20), LoRA layers in float64 (21)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rules.toy import OneProcess
from torch import nn
from torch.nn import functional as F

from hf_cl.rules import Glad, GradientNorm, Plain, ProGrad, Sagm, Sam

REFERENCE = Path(__file__).parents[1] / "reference" / "glad"


def load(name):
    with np.load(REFERENCE / name, allow_pickle=False) as file:
        return {key: file[key].tolist() if file[key].dtype.kind == "U" else torch.from_numpy(file[key]) for key in file.files}


OLD = load("20_glad_sam_variants.npz")
NEW = load("21_update_rules.npz")
RHO = float(NEW["rho"])
RULES = {
    "none": Plain(),
    "glad": Glad(RHO, float(NEW["glad.lam"])),
    "sam": Sam(RHO),
    "sagm": Sagm(RHO, float(NEW["sagm.alpha"])),
    "gradient_norm": GradientNorm(RHO, float(NEW["gradient_norm.mu"])),
    "prograd": ProGrad("zero_shot_kl", float(NEW["prograd.lam"])),
}


def close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def step_20(rule):
    """Gradient, flat: A then B; parameters are found unchanged."""
    a, b = nn.Parameter(OLD["A"].clone()), nn.Parameter(OLD["B"].clone())

    def losses():
        logits = F.linear(OLD["x"], OLD["W"]) + F.linear(F.linear(OLD["x"], a), b) / math.sqrt(2)
        return {"cross_entropy": F.cross_entropy(logits, OLD["y"])}

    rule.compute([losses], [("A", a), ("B", b)], OneProcess(), nn.Identity())
    assert torch.equal(a, OLD["A"]) and torch.equal(b, OLD["B"])
    return a, b


@pytest.mark.parametrize(
    ("rule", "key"),
    [
        (Plain(), "g"),
        (Sam(float(OLD["rho"])), "g_sam"),
        (Glad(float(OLD["rho"]), 0.5), "g_mid"),
        (Glad(float(OLD["rho"]), 0.3), "g_convex_0_3"),
        (GradientNorm(float(OLD["rho"]), 0.5 * float(OLD["rho"])), "g_norm_penalty_alpha0_5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_float32_gradient(rule, key):
    a, b = step_20(rule)
    close(torch.cat([a.grad.flatten(), b.grad.flatten()]), OLD[key].flatten(), 1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.001])
def test_float32_step_of_the_official_sagm(alpha):
    for name, p in zip("AB", step_20(Sagm(float(OLD["rho"]), alpha)), strict=True):
        close(p.detach() - float(OLD["lr"]) * p.grad, OLD[f"sagm_alpha{alpha}_{name}"], 1e-6)


def lora(prefix):
    """The trainable tensors A0, B0, ... of 21."""
    return {name: nn.Parameter(NEW[f"{prefix}.{name}"].clone()) for name in NEW["names"]}


def logits_of(parameters, x):
    depth = len(NEW["names"]) // 2
    for i in range(depth):
        update = F.linear(F.linear(x, parameters[f"A{i}"]), parameters[f"B{i}"])
        x = F.linear(x, NEW[f"W{i}"]) + NEW["scaling"][i] * update
        x = torch.tanh(x) if i < depth - 1 else x
    return x


def compute(rule, parameters, batch=0):
    def losses():
        logits = logits_of(parameters, NEW["x"][batch])
        named = {"cross_entropy": F.cross_entropy(logits, NEW["y"][batch])}
        if isinstance(rule, ProGrad):
            t = float(NEW["prograd.T"])
            target = F.softmax(NEW["zero_shot_logits"][batch] / t, -1)
            named["zero_shot_kl"] = -(target * F.log_softmax(logits / t, -1)).sum(1).mean() * t * t
        return named

    rule.compute([losses], list(parameters.items()), OneProcess(), nn.Identity())


CASES = [
    *((rule, "init", f"{name}.grad") for name, rule in RULES.items()),
    (Glad(RHO, float(NEW["glad.lam"]), adaptive=True), "init", "glad_adaptive.grad"),
    (Glad(RHO, float(NEW["glad.lam"]), per_tensor=True), "init", "glad_per_tensor.grad"),
    (RULES["glad"], "zeroB", "zeroB.glad.grad"),
]


@pytest.mark.parametrize(("rule", "prefix", "key"), CASES, ids=[case[2] for case in CASES])
def test_float64_gradient(rule, prefix, key):
    parameters = lora(prefix)
    compute(rule, parameters)
    for name, p in parameters.items():
        close(p.grad, NEW[f"{key}.{name}"], 1e-10)
        assert torch.equal(p, NEW[f"{prefix}.{name}"])


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("optimizer_name", ["sgd", "adamw"])
def test_float64_trajectory(optimizer_name, name):
    parameters = lora("init")
    lr = float(NEW[f"{optimizer_name}.lr"])
    optimizer = {
        "sgd": lambda: torch.optim.SGD(parameters.values(), lr=lr, momentum=0.9, weight_decay=5e-4),
        "adamw": lambda: torch.optim.AdamW(parameters.values(), lr=lr, weight_decay=1e-2),
    }[optimizer_name]()
    for step in range(len(NEW["x"])):
        compute(RULES[name], parameters, step)
        optimizer.step()
        optimizer.zero_grad()
        for key, p in parameters.items():
            close(p.detach(), NEW[f"{optimizer_name}.{name}.t{step}.{key}"], 1e-9)


def test_the_reference_holds_one_tensor_in_conflict_and_one_that_is_not():
    dots = [(NEW[f"none.grad.{name}"] * NEW[f"prograd.reference.{name}"]).sum() for name in ("A0", "B0")]
    assert dots[0] < 0 < dots[1]
