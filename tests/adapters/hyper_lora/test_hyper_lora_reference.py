"""HYPER_LORA's generator and its penalty against numbers of an LSTM in numpy and of hypercl (tests/reference/hyper_lora), in float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cl.adapters import HyperLoraConfig
from hf_cl.adapters.hyper_lora import Generator
from hf_cl.losses.generated_factors import factor_penalty, product_penalty

FILE = Path(__file__).parents[2] / "reference" / "hyper_lora" / "hyper.npz"
BETA, SESSIONS = 0.01, 4
RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@cache
def numbers():
    with np.load(FILE, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def official(name: str) -> str:
    """Our name of a parameter -> the file's: `head_a_8x12` is `head_A.8x12`."""
    if name[:7] in ("head_a_", "bias_a_", "head_b_", "bias_b_"):
        return f"{name[:5]}{name[5].upper()}.{name[7:]}"
    return {"codes": "layer_codes"}.get(name, name)


def generator(which: str) -> Generator:
    """With the parameters `param` or `moved`."""
    found = numbers()
    r, embedding, layer, hidden, sessions = found["cfg"].tolist()
    names = [f"class {i}" for i in range(sessions)]
    config = HyperLoraConfig(
        r=r, embedding_dim=embedding, layer_dim=layer, hidden_size=hidden, class_names=names, classes_per_session=[1] * sessions
    )
    made = Generator([(int(n_in), int(n_out)) for n_in, n_out in found["layers"]], config, 3).double()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name != "embedding":
                parameter.copy_(found[f"{which}.{official(name)}"].reshape(parameter.shape))
    return made


def embeddings(prefix: str, count: int = SESSIONS) -> torch.Tensor:
    return torch.stack([numbers()[f"{prefix}.{t}"] for t in range(count)])  # [S, E]


def pairs_of(prefix: str, count: int):
    layers = len(numbers()["layers"])
    return [tuple(torch.stack([numbers()[f"{prefix}.{t}.{place}.{ab}"] for t in range(count)]) for ab in "AB") for place in range(layers)]


def test_factors_of_all_layers_and_sessions():
    made = generator("param")(embeddings("embedding")).pairs
    for ours, theirs in zip(made, pairs_of("out", SESSIONS), strict=True):
        for factor, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(factor, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["plain", "fisher"])
def test_penalty_and_gradients_equal_hypercl(kind):
    found = numbers()
    network, past = generator("moved"), embeddings("moved_embedding", SESSIONS - 1).requires_grad_(True)
    targets = pairs_of("out", SESSIONS - 1)
    weights = None
    if kind == "fisher":
        per_layer = pairs_of("fisher", SESSIONS - 1)
        weights = torch.cat([factor.flatten(1) for pair in per_layer for factor in pair], dim=1)  # [J, N]
    loss = BETA * factor_penalty(network(past).pairs, targets, weights)
    torch.testing.assert_close(loss, found[f"reg.{kind}"], atol=1e-12, rtol=0)
    loss.backward()
    for name, parameter in network.named_parameters():
        if name != "embedding":
            wanted = found[f"reg.{kind}.grad.{official(name)}"].reshape(parameter.shape)
            torch.testing.assert_close(parameter.grad, wanted, atol=1e-12, rtol=0)
    for t in range(SESSIONS - 1):
        torch.testing.assert_close(past.grad[t], found[f"reg.{kind}.grad.embedding.{t}"], atol=1e-12, rtol=0)


def test_penalty_on_products():
    made = generator("moved")(embeddings("moved_embedding", SESSIONS - 1)).pairs
    loss = BETA * product_penalty(made, pairs_of("out", SESSIONS - 1))
    torch.testing.assert_close(loss, numbers()["reg.product"], atol=1e-12, rtol=0)
