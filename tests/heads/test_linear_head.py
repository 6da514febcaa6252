import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_cl.heads import LinearHead


def test_begins_like_nn_linear():
    torch.manual_seed(0)
    head = LinearHead(16, 5)
    torch.manual_seed(0)
    linear = nn.Linear(16, 5)
    torch.testing.assert_close(head.weight, linear.weight)
    torch.testing.assert_close(head.bias, linear.bias)
    features = torch.randn(3, 16)
    torch.testing.assert_close(head(features), linear(features))


@pytest.mark.parametrize("bias", [True, False])
def test_a_grown_head_trains_like_the_full_size_head(bias):
    """Two sessions of masked cross-entropy under Adam: the same initial rows give the same numbers, and old rows stay to the bit."""
    torch.manual_seed(0)
    full = LinearHead(8, 6, bias=bias, dtype=torch.float64)
    grown = LinearHead(8, 3, bias=bias, dtype=torch.float64)
    features, labels = torch.randn(2, 20, 8, dtype=torch.float64), torch.randint(0, 3, (2, 20))
    start = {name: p.detach().clone() for name, p in full.named_parameters()}
    for session, (first, last) in enumerate([(0, 3), (3, 6)]):
        if session:
            grown.grow(["d", "e", "f"])
        with torch.no_grad():
            for name, p in grown.named_parameters():
                p[first:].copy_(start[name][first:last])
        old = {name: p.detach()[:first].clone() for name, p in grown.named_parameters()}
        for head in (full, grown):
            optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
            for _ in range(5):
                F.cross_entropy(head(features[session])[:, first:last], labels[session]).backward()
                optimizer.step()
                optimizer.zero_grad()
        for name, p in grown.named_parameters():
            assert torch.equal(p[:first], old[name])
            torch.testing.assert_close(p, dict(full.named_parameters())[name][:last], rtol=1e-10, atol=1e-10)
            assert not torch.equal(p[first:], start[name][first:last])


def test_bias_must_be_a_bool():
    with pytest.raises(ValueError, match="bias must be true or false, got 'no'"):
        LinearHead(4, 2, bias="no")  # pyright: ignore[reportArgumentType]
