"""Moments of many classes as a few tensors: the same bits again, and what does not fit together is refused."""

from __future__ import annotations

import pytest
import torch

from hf_cl.memory import ClassStatistics
from hf_cl.memory.statistics_tensors import moments_of, tensors_of


@pytest.fixture
def statistics():
    """Three classes of 1, 4 and 9 samples in five dimensions, everything kept."""
    labels = torch.tensor([7] + [2] * 4 + [5] * 9)
    found = ClassStatistics({"full", "diag", "low_rank", "pooled"}, rank=2)
    found.update(torch.randn(14, 5, generator=torch.Generator().manual_seed(0)), labels)
    return found


def low_rank_statistics():
    found = ClassStatistics({"low_rank"}, rank=2)
    labels = torch.tensor([0] + [1] * 6)
    found.update(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)), labels)
    return found


def test_the_same_bits_again(statistics):
    for there in (statistics, low_rank_statistics()):
        again = moments_of(tensors_of(there.moments))
        assert again.keys() == there.moments.keys()
        for label, moments in there.moments.items():
            mine = again[label]
            assert mine.count == moments.count and torch.equal(mine.mean, moments.mean)
            for name in ("factor", "squares"):
                before, after = getattr(moments, name), getattr(mine, name)
                assert (before is None) == (after is None)
                if before is not None:
                    assert torch.equal(before, after) and before.stride() == after.stride()
                    assert before.data_ptr() % 64 == after.data_ptr() % 64 or not before.numel()
            assert (mine.low_rank is None) == (moments.low_rank is None)
            if moments.low_rank is not None:
                assert torch.equal(mine.low_rank.factor, moments.low_rank.factor) and mine.low_rank.residual == moments.low_rank.residual


def test_a_file_of_many_classes_has_as_many_tensors_as_one_of_few(statistics):
    many = ClassStatistics({"full"})
    many.update(torch.randn(300, 4), torch.arange(300) % 100)
    assert tensors_of(many.moments).keys() == {"classes", "counts", "means", "factors", "factor_rows"}
    assert moments_of(tensors_of({})) == {}


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("counts", lambda t: t * 0, "each with an image at least"),
        ("classes", lambda t: t * 0, "distinct positions"),
        ("classes", lambda t: t[:2], "of one length"),
        ("means", lambda t: t[:, 0], r"means must be \[3, D\]"),
        ("means", lambda t: t * torch.nan, "means has values that are no numbers"),
        ("squares", lambda t: t.float(), "squares must be .* of float64"),
        ("factor_rows", lambda t: t + 1, r"factors must be \[11, 5\]"),
        ("factor_rows", lambda t: -t, "whole numbers"),
        ("factor_rows", None, "belong together"),
        ("counts", None, "counts are missing"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(statistics, name, change, message):
    tensors = tensors_of(statistics.moments)
    there = tensors.pop(name)
    with pytest.raises(ValueError, match=message):
        moments_of(tensors | ({name: change(there)} if change else {}))
