"""PROMPT_POOL against the official prompt modules (tests/reference/ovor, tests/reference/prompt_pools), in float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from ovor_reference import CLASSES, SEEN, load, vit
from peft import get_peft_model

from hf_cl.adapters import PromptPoolConfig
from hf_cl.adapters.prompt_pool import PromptPoolLayer
from hf_cl.adapters.prompt_pool.pools import orthogonal_rows
from hf_cl.backbones import classifier_of
from hf_cl.contracts import Context
from hf_cl.losses import OrthogonalPrompts, PromptKeys

POOLS = Path(__file__).parents[2] / "reference" / "prompt_pools" / "pools.npz"
CONFIGS = {
    "l2p": {"producer": "l2p", "e_layers": [0], "pool_size": 6, "top_k": 5, "e_tokens": 2},
    "l2p_deep": {"producer": "l2p", "e_layers": [0, 1, 2, 3, 4], "pool_size": 6, "top_k": 5, "e_tokens": 2},
    "dual": {"producer": "dual", "e_tokens": 4, "g_tokens": 2},
    "coda": {"producer": "coda", "e_tokens": 2, "components_per_session": 2},
}
each = pytest.mark.parametrize("name", CONFIGS)


@cache
def numbers():
    with np.load(POOLS, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


@torch.no_grad()
def pooled_vit(name: str):
    """The tiny ViT with the official tensors: those of session 0 rest, those of session 1 train."""
    found = load(name)
    config = PromptPoolConfig(**CONFIGS[name], class_names=list(CLASSES), classes_per_session=[3, 3])
    model = get_peft_model(vit(), config, autocast_adapter_dtype=False).double()
    for number, layer in enumerate(block.attention for block in model.base_model.model.vit.layers):
        for kind in "pkag":
            official = found.get(f"prompt.g_p_{number}" if kind == "g" else f"prompt.e_{kind}_{number}")
            if official is None:
                continue
            rows = official.unflatten(-2, (2, -1)) if kind in "pg" else official  # [M, 2, L, D], [M, Q]
            newest = getattr(layer, f"prompt_pool_{kind}")["default"]
            if kind != "g":
                past = getattr(layer, f"prompt_pool_past_{kind}")["default"]
                assert len(past) + len(newest) == len(rows)
                past.copy_(rows[: len(past)])
                rows = rows[len(past) :]
            newest.copy_(rows)
    head = model.base_model.head_wrapper().head("default")
    head.weight.copy_(found["last.weight"])
    head.bias.copy_(found["last.bias"])
    return model, found


@each
def test_rows_and_logits(name, monkeypatch):
    model, found = pooled_vit(name)
    model.eval()
    produced, forward = {}, PromptPoolLayer.forward

    def noted(layer, *args, **kwargs):
        produced[layer] = layer.rows()
        return forward(layer, *args, **kwargs)

    monkeypatch.setattr(PromptPoolLayer, "forward", noted)
    logits = model(load("vit_plain")["pixel_values"]).logits
    torch.testing.assert_close(logits, found["logits_eval"], atol=1e-10, rtol=0)
    for number, layer in enumerate(block.attention for block in model.base_model.model.vit.layers):
        if f"pk_eval.{number}" not in found:
            continue
        for rows, official in zip(produced[layer], (found[f"pk_eval.{number}"], found[f"pv_eval.{number}"]), strict=True):
            pair = rows.expand_as(official), official  # [B, P, D] each
            if name.startswith("l2p"):  # the order of an image's prompts is of no matter to attention
                pair = tuple(one.sort(dim=1).values for one in pair)
            torch.testing.assert_close(*pair, atol=1e-12, rtol=0)


def context(model, pixels) -> Context:
    outputs = classifier_of(model).outputs(pixels)
    return Context({}, (outputs,), None, 0, 0, None)  # pyright: ignore[reportArgumentType]


@each
def test_loss_and_gradients_of_a_step(name):
    model, found = pooled_vit(name)
    model.train()
    ctx = context(model, load("vit_plain")["pixel_values"])
    torch.testing.assert_close(ctx.logits, found["logits_train"], atol=1e-10, rtol=0)
    masked = ctx.logits[:, slice(*SEEN)]
    loss = torch.nn.functional.cross_entropy(masked, found["labels"] - SEEN[0])
    torch.testing.assert_close(loss, found["ce"], atol=1e-12, rtol=0)
    if name == "coda":
        term = OrthogonalPrompts(0.1)
        term._tuner = model.base_model
    else:
        term = PromptKeys(over="pairs" if name.startswith("l2p") else "images")
    penalty = term(ctx) * term.weight_at(0)
    torch.testing.assert_close(penalty, found["prompt_loss"], atol=1e-12, rtol=0)
    (loss + penalty).backward()
    compared = 0
    for number, layer in enumerate(block.attention for block in model.base_model.model.vit.layers):
        for kind in "pkag":
            wanted = found.get(f"grad.prompt.g_p_{number}" if kind == "g" else f"grad.prompt.e_{kind}_{number}")
            if wanted is None:
                continue
            gradient = getattr(layer, f"prompt_pool_{kind}")["default"].grad
            if kind in "pg":
                gradient = gradient.flatten(-3, -2)  # [M, 2 L, D]
            torch.testing.assert_close(gradient, wanted[-len(gradient) :], atol=1e-12, rtol=0)
            compared += 1
    assert compared == {"l2p": 2, "l2p_deep": 10, "dual": 8, "coda": 15}[name]


@pytest.mark.parametrize("name", ["l2p", "l2p_deep", "dual"])
@pytest.mark.parametrize("scaling", ["sum", "mean", "per_image"])
def test_every_scaling_of_the_key_loss(name, scaling):
    if f"{name}.{scaling}.loss" not in numbers():
        assert (name, scaling) == ("dual", "per_image")  # the mean is the same
        return
    model, _ = pooled_vit(name)
    term = PromptKeys(
        over="pairs" if name.startswith("l2p") and scaling != "per_image" else "images", reduction="sum" if scaling == "sum" else "mean"
    )
    loss = term(context(model.train(), load("vit_plain")["pixel_values"]))
    torch.testing.assert_close(loss, numbers()[f"{name}.{scaling}.loss"], atol=1e-10, rtol=1e-12)
    loss.backward()
    for number, layer in enumerate(block.attention for block in model.base_model.model.vit.layers):
        wanted = numbers().get(f"{name}.{scaling}.grad.e_k_{number}")
        if wanted is not None:
            gradient = layer.prompt_pool_k["default"].grad
            torch.testing.assert_close(gradient, wanted[-len(gradient) :], atol=1e-11, rtol=1e-12)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_orthogonality_of_components(reduction):
    model, _ = pooled_vit("coda")
    term = OrthogonalPrompts(0.1, reduction)
    term._tuner = model.base_model
    loss = term(context(model.train(), load("vit_plain")["pixel_values"])) * 0.1
    torch.testing.assert_close(loss, numbers()[f"coda.{reduction}.loss"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["k", "a", "p"])
def test_components_grow_as_the_official_code_lets_them(kind):
    found = numbers()
    for session in (0, 1):
        first = 3 * session
        draws = torch.stack([found[f"grow.draw.session{session}.e_{kind}_0.row{row}"] for row in range(first, first + 3)])
        before = found[f"grow.before1.e_{kind}_0"] if session else found[f"grow.session0.e_{kind}_0"]
        new = orthogonal_rows(before.flatten(1)[:first], draws)
        torch.testing.assert_close(new, found[f"grow.session{session}.e_{kind}_0"].flatten(1)[first : first + 3], atol=1e-12, rtol=0)
