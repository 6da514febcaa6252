"""The learned prior against reference numbers and closed forms; what its denoiser becomes under proximal matching."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from hf_cl.memory.feature_prior import ProximalNetwork, inverted, learned, negative_log_prior, proximal_matching

REFERENCE = Path(__file__).parents[1] / "reference" / "feature_prior"


def numbers(name: str) -> dict[str, torch.Tensor]:
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def test_network_gradient_and_prior_are_the_reference_s():
    found = numbers("lpn")
    network = ProximalNetwork(*(found[name] for name in ("W0", "W1", "W2", "R0", "R1", "b0", "b1")))
    y, close = found["y"], {"rtol": 0, "atol": 1e-10}
    torch.testing.assert_close(network.potential(y), found["psi"], **close)
    torch.testing.assert_close(network.prox(y), found["prox"], **close)
    torch.testing.assert_close(network.jacobian(y), found["jacobian"], **close)
    torch.testing.assert_close(
        negative_log_prior(network.prox(y), network.potential, network.prox, network.jacobian), found["prior_at_prox"], **close
    )
    torch.testing.assert_close(network.log_prior(network.prox(y)), -found["prior_at_prox"], **close)
    matching = proximal_matching(network.prox(y), found["targets"], float(found["gamma"]))
    torch.testing.assert_close(matching, found["proximal_matching"].double(), **close)


def test_the_gradient_is_inverted_row_by_row():
    generator = torch.Generator().manual_seed(0)
    network = ProximalNetwork.drawn(6, 20, generator)
    y = 3 * torch.randn(9, 6, dtype=torch.float64, generator=generator)
    parts = network.potential, network.prox, network.jacobian
    torch.testing.assert_close(inverted(network.prox(y), *parts), y, rtol=0, atol=1e-6)
    alone = torch.cat([network.log_prior(row[None]) for row in y])
    torch.testing.assert_close(network.log_prior(y), alone, rtol=0, atol=1e-9)
    jacobian = network.jacobian(y)
    torch.testing.assert_close(jacobian, jacobian.mT)
    assert torch.linalg.eigvalsh(jacobian).min() > 0


def test_of_a_quadratic_potential_the_prior_is_known():
    found = numbers("quadratic")
    matrix, x = found["Q"], found["x"]
    parts = (lambda y: ((y @ matrix) * y).sum(-1) / 2, lambda y: y @ matrix.T, lambda y: matrix.expand(len(y), *matrix.shape))
    torch.testing.assert_close(negative_log_prior(x, *parts), found["prior"], rtol=0, atol=1e-10)


@pytest.mark.slow
def test_what_lies_between_the_classes_is_improbable():
    generator = torch.Generator().manual_seed(0)
    middles = 3 * torch.randn(6, 4, dtype=torch.float64, generator=generator)

    def around(rows: torch.Tensor) -> torch.Tensor:
        return rows + 0.3 * torch.randn(rows.shape, dtype=torch.float64, generator=generator)

    train, known, unknown = (around(rows.repeat(n, 1)) for rows, n in ((middles, 100), (middles, 20), (middles.mean(0)[None], 120)))
    network = learned(train / train.std(0), generator, width=32, stages=((None, 150), (4.0, 100)))
    scores = -network.log_prior(torch.cat([known, unknown]) / train.std(0))
    labels = [0] * len(known) + [1] * len(unknown)
    assert roc_auc_score(labels, scores.numpy()) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_proximal_matching_thresholds_softly_and_the_squared_error_does_not(seed):
    """The paper's own test: of Laplace noise on nothing, the most probable denoised value is the soft threshold at 1. (The
    minimum of the last gamma's loss, by quadrature, is off by 0.052 on average itself.)"""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(20000, 1, dtype=torch.float64, generator=generator) - 0.5
    rows = -uniform.sign() * (1 - 2 * uniform.abs()).log()  # Laplace(1)
    y = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    wanted = y.sign() * (y.abs() - 1).clamp_min(0)
    stages = ((None, 2000), *((gamma, 1000) for gamma in (1.0, 0.5, 0.4, 0.3)))
    off = (learned(rows, generator, width=50, noise=1.0, stages=stages).prox(y) - wanted).abs().mean()
    plain = (learned(rows, generator, width=50, noise=1.0, stages=((1e3, 6000),)).prox(y) - wanted).abs().mean()
    assert off < 0.1
    assert plain > 0.15  # with a gamma beyond all distances, matching is the squared error
