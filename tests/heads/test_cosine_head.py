import pytest
import torch
from torch.nn import functional as F

from hf_cl.heads import CosineHead


def test_logits_are_scaled_cosines():
    head = CosineHead(8, 3, scale=5.0, dtype=torch.float64)
    features = torch.randn(4, 8, dtype=torch.float64)
    expected = 5.0 * F.cosine_similarity(features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(head(features), expected)
    assert head(features).abs().max() <= 5.0


def test_length_of_rows_and_features_does_not_matter():
    head = CosineHead(8, 3, dtype=torch.float64)
    features = torch.randn(4, 8, dtype=torch.float64)
    before = head(features)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [1.0], [100.0]]))
    torch.testing.assert_close(head(7.0 * features), before)


def test_scale_and_rows_learn():
    head = CosineHead(8, 3)
    F.cross_entropy(head(torch.randn(4, 8)), torch.tensor([0, 1, 2, 0])).backward()
    assert head.scale.grad is not None and head.scale.grad != 0
    assert head.weight.grad is not None and head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "16"])
def test_scale_must_be_positive(scale):
    with pytest.raises(ValueError, match="scale must be a positive number"):
        CosineHead(8, 3, scale=scale)
