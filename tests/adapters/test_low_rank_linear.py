"""Rank rule and factors against the numbers of the official functions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hf_cl.adapters.low_rank_linear import LowRankLinear, factors, rank_of

NUMBERS = np.load(Path(__file__).parents[1] / "reference" / "pela" / "pela.npz", allow_pickle=False)
RATIO = float(NUMBERS["ratio"])


def close(got: Tensor, name: str) -> None:
    torch.testing.assert_close(got, torch.tensor(NUMBERS[name], dtype=torch.float64), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("k", range(4))
def test_ranks_and_factors_are_the_official_ones(k):
    """Signs of singular vectors are free: the product and the Gram matrices are compared."""
    inputs, outputs, rank = (int(n) for n in NUMBERS[f"svd.{k}.shape"])
    if outputs < 10:
        assert rank == 0, "left alone"
        return
    assert rank_of(inputs, outputs, RATIO) == rank
    weight = torch.tensor(NUMBERS[f"svd.{k}.weight"], dtype=torch.float64)
    down, up = factors(weight, rank)
    close(up @ down, f"svd.{k}.product")
    close(down @ down.T, f"svd.{k}.down_gram")
    close(up.T @ up, f"svd.{k}.up_gram")
    close(torch.linalg.svdvals(weight), f"svd.{k}.singular")


def test_ranks_of_published_shapes():
    assert [rank_of(768, 768, ratio) for ratio in (2, 3)] == [192, 128]
    assert [rank_of(768, 3072, ratio) for ratio in (2, 3)] == [307, 204]
    assert rank_of(768, 2304, 2) == 288


@pytest.mark.parametrize("bias", [True, False])
def test_a_pair_is_a_linear_to_what_stands_around_it(bias):
    torch.manual_seed(0)
    linear = nn.Linear(12, 20, bias=bias)
    pair, x = LowRankLinear.of(linear, 12), torch.randn(3, 12)
    torch.testing.assert_close(pair(x), linear(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pair.dense()(x), pair(x), atol=1e-5, rtol=1e-5)
    assert isinstance(pair, nn.Linear) and pair.weight.shape == (20, 12) and (pair.bias is None) != bias
    assert [name for name, _ in pair.named_parameters()] == ["down.weight", "up.weight", *(["up.bias"] if bias else [])]
    assert LowRankLinear.of(linear.bfloat16(), 3).up.weight.dtype == torch.bfloat16
