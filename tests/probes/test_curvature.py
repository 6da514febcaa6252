"""Estimates about a Hessian against one that was written out by hand."""

import pytest
import torch
from losses.reference_net import numbers
from torch.nn import functional as F

from hf_cl.probes.curvature import HessianProduct, curvature, power_iteration

REFERENCE = numbers("sharpness/01_hessian_and_stability")


def network():
    tensors = [REFERENCE["W1"].clone().requires_grad_(), REFERENCE["W2"].clone().requires_grad_()]

    def gradient(weights):
        logits = (REFERENCE["X"] @ weights[0].T).tanh() @ weights[1].T
        loss = F.cross_entropy(logits, REFERENCE["y"])
        return loss, list(torch.autograd.grad(loss, weights, create_graph=True))

    return gradient, tensors


def test_products_with_the_hessian():
    product = HessianProduct(*network(), lambda t: t)
    assert product.loss == pytest.approx(float(REFERENCE["loss"]), abs=1e-12)
    torch.testing.assert_close(product.flat_gradient, REFERENCE["grad"], rtol=0, atol=1e-10)
    torch.testing.assert_close(product(REFERENCE["hvp_vector"]), REFERENCE["hvp"], rtol=0, atol=1e-10)
    columns = torch.stack([product(unit) for unit in torch.eye(product.size, dtype=torch.float64)])
    torch.testing.assert_close(columns, REFERENCE["hessian"], rtol=0, atol=1e-10)


def test_trace_and_norm_are_hutchinsons():
    signs = iter([*REFERENCE["rademacher"], REFERENCE["power_start"]])
    found = curvature(*network(), samples=64, iterations=40, tolerance=0.0, draw=lambda size, device: next(signs))
    assert found.trace == pytest.approx(float(REFERENCE["hutchinson_mean"]), abs=1e-10)
    assert found.trace_error == pytest.approx(float(REFERENCE["hutchinson_sem"]), abs=1e-10)
    assert found.frobenius == pytest.approx(float(REFERENCE["frobenius_est"]), abs=1e-10)
    assert found.lambda_max == pytest.approx(float(REFERENCE["lambda_max"]), abs=1e-3)
    assert found.parameters == 35
    g, h = REFERENCE["grad"], REFERENCE["hessian"]
    assert found.along_gradient == pytest.approx(float(g @ h @ g / (g @ g)), abs=1e-10)


def test_power_iteration_has_the_reference_quotients():
    product = HessianProduct(*network(), lambda t: t)
    for count in (1, 5, 40):
        value, _ = power_iteration(product, REFERENCE["power_start"], count, 0.0)
        assert value == pytest.approx(float(REFERENCE["power_rayleigh"][count - 1]), abs=1e-10)


def test_the_largest_eigenvalue_of_a_saddle():
    """Eigenvalues -3 and 1: the one of largest magnitude is not the largest."""
    w = torch.tensor([0.3, 0.2], dtype=torch.float64, requires_grad=True)

    def gradient(tensors):
        loss = -1.5 * tensors[0][0] ** 2 + 0.5 * tensors[0][1] ** 2
        return loss, list(torch.autograd.grad(loss, tensors, create_graph=True))

    found = curvature(gradient, [w], 2, 100, 1e-9, lambda size, device: torch.tensor([1.0, 1.0], dtype=torch.float64))
    assert found.lambda_max == pytest.approx(1.0, abs=1e-6)
    assert found.trace == pytest.approx(-2.0)
    assert found.converged


def test_the_estimate_lies_within_its_error():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)

        def draw(size, device, generator=generator):
            return (torch.randint(0, 2, (size,), generator=generator) * 2 - 1).double()

        found = curvature(*network(), 64, 1, 1e-3, draw)
        assert abs(found.trace - float(REFERENCE["trace"])) < 4 * found.trace_error


def test_a_constant_gradient_has_no_curvature():
    w = torch.ones(3, requires_grad=True)
    found = curvature(lambda t: (t[0].sum(), [torch.ones(3)]), [w], 1, 3, 1e-3, lambda size, device: torch.ones(size))
    assert (found.trace, found.lambda_max, found.trace_error) == (0.0, 0.0, None)
