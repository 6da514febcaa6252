"""The edge of numerical stability: addition modulo 23, half of the pairs, no weight decay (arXiv 2501.04697). Run by `make torture`."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_cl.losses.stablemax import stablemax_cross_entropy
from hf_cl.probes.softmax_collapse import collapsed
from hf_cl.rules import PerpGrad
from hf_cl.rules.plain import Plain

pytestmark = pytest.mark.slow


class RandomDirection(Plain):
    """PerpGrad's control: the part along a random direction goes instead of that along the weights, and the length is kept as there."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def transform(self, named_parameters):
        for _, p in named_parameters:
            w, g = torch.randn(p.shape, generator=self.generator), p.grad
            rest = g - (w * g).sum() / (w * w).sum() * w
            p.grad = rest * (g.norm() / rest.norm())


def modular(seed, loss, epochs, rule=None):
    """(training logits, sums, test accuracy, largest share of rows without a gradient) of a network without biases, all pairs in a step."""
    torch.manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(23), torch.arange(23))
    sums = pairs.sum(1) % 23
    x = torch.cat([F.one_hot(pairs[:, 0], 23), F.one_hot(pairs[:, 1], 23)], 1).float()
    order = torch.randperm(len(x))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    layers = [nn.Linear(*shape, bias=False) for shape in ((46, 128), (128, 128), (128, 23))]
    net = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0)
    named, silent = list(net.named_parameters()), 0.0
    for _ in range(epochs):
        logits = net(x[train])
        (gradient,) = torch.autograd.grad(loss(logits, sums[train]), logits, retain_graph=True)
        silent = max(silent, (gradient == 0).all(1).float().mean().item())
        optimizer.zero_grad()
        logits.backward(gradient)
        if rule is not None:
            rule.transform(named)
        optimizer.step()
    with torch.no_grad():
        return net(x[train]), sums[train], (net(x[test]).argmax(1) == sums[test]).float().mean().item(), silent


@pytest.mark.parametrize("seed", range(3))
def test_softmax_collapses_and_stablemax_does_not(seed):
    logits, labels, _, _ = modular(seed, F.cross_entropy, 2000)
    assert collapsed(logits, labels, torch.float32)[0] > 0.3 * len(labels)
    *_, silent = modular(seed, lambda z, y: stablemax_cross_entropy(z.double(), y).float(), 2000)
    assert silent == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_perpendicular_gradient_generalises(seed):
    *_, plain, _ = modular(seed, F.cross_entropy, 500)
    *_, control, _ = modular(seed, F.cross_entropy, 500, RandomDirection(seed))
    *_, perpendicular, _ = modular(seed, F.cross_entropy, 500, PerpGrad(scope="all"))
    assert max(plain, control) < 0.05 and perpendicular > 0.3, (plain, control, perpendicular)
