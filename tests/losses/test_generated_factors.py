"""What a hypernetwork generates for earlier sessions stays where it was: on three sets of matrices, learned in turn."""

from __future__ import annotations

import pytest
import torch

from hf_cl.adapters import HyperLoraConfig
from hf_cl.adapters.hyper_lora import Generator
from hf_cl.losses import GeneratedFactors
from hf_cl.losses.generated_factors import factor_penalty, flat, product_penalty

SHAPES = [(6, 6), (6, 8)]


def change_of_session_0(beta: float, seed: int) -> float:
    """How far its factors have moved when two more sets are learned, over their own length."""
    torch.manual_seed(seed)
    config = HyperLoraConfig(r=2, embedding_dim=4, layer_dim=4, hidden_size=12, class_names=["0"], classes_per_session=[1])
    network = Generator(SHAPES, config, 3)
    kept = torch.empty(0)
    for session in range(3):
        if session:
            config.class_names, config.classes_per_session = [*config.class_names, str(session)], [*config.classes_per_session, 1]
            network.grow(config)
            with torch.no_grad():
                targets = [tuple(factor.clone() for factor in pair) for pair in network(network.past).pairs]
        wanted = [torch.randn(n_out, n_in) for n_in, n_out in SHAPES]
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(50):
            pairs = network(network.embedding[None]).pairs
            loss = torch.stack([(b[0] @ a[0] - want).square().sum() for (a, b), want in zip(pairs, wanted, strict=True)]).sum()
            if session and beta:
                loss = loss + beta * factor_penalty(network(network.past).pairs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if session == 0:
            with torch.no_grad():
                kept = flat(network(network.embedding[None]).pairs)
    with torch.no_grad():
        moved = flat(network(network.past[:1]).pairs)
    return float((moved - kept).norm() / kept.norm())


@pytest.mark.parametrize("seed", range(3))
def test_the_penalty_holds_session_0_and_without_it_nothing_does(seed):
    assert change_of_session_0(100.0, seed) < 0.05 < 0.5 < change_of_session_0(0.0, seed)


def test_products_may_turn_factors_against_each_other():
    torch.manual_seed(0)
    a, b, turn = (torch.randn(*size).double() for size in ((1, 2, 5), (1, 4, 2), (2, 2)))
    turn = torch.linalg.qr(turn).Q
    turned = [(turn @ a, b @ turn.T)]
    assert factor_penalty(turned, [(a, b)]) > 0.1 and product_penalty(turned, [(a, b)]).abs() < 1e-10
    far = [(a + 1, b)]
    torch.testing.assert_close(product_penalty(far, [(a, b)]), (b @ (a + 1) - b @ a).square().sum())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "sum"}, "on is factors or product"),
        ({"on": "product", "importance": "fisher"}, "leave it out"),
        ({"sessions": 0}, "at least 1"),
        ({"weight": -1.0}, "negative"),
    ],
)
def test_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GeneratedFactors(**options)
