"""Which entries are chosen, and what is refused as positions."""

from __future__ import annotations

import pytest
import torch

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara.selection import check_positions, select, smallest


def by_sorting(magnitudes: torch.Tensor, count: int) -> torch.Tensor:
    return magnitudes.sort(stable=True).indices[:count].sort().values


@pytest.mark.parametrize("count", [0, 1, 7, 63, 64])
def test_smallest_equals_a_stable_sort_also_among_ties(count):
    magnitudes = torch.randint(0, 5, (64,), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(smallest(magnitudes, count), by_sorting(magnitudes, count))


def test_the_threshold_is_strict():
    w = torch.tensor([[0.0, 0.5, -0.5], [-0.25, 0.75, 0.25]])
    assert select(w, SaraConfig(threshold=0.5)).tolist() == [0, 3, 5]
    assert select(w, SaraConfig(threshold=0.25)).tolist() == [0]


def test_a_bfloat16_base_is_compared_in_float32():
    # 0.1 in bfloat16 is 0.10009765625: compared in bfloat16 it would not be below the (rounded) threshold 0.1001
    w = torch.tensor([0.1], dtype=torch.bfloat16)
    assert not (w < torch.tensor(0.1001, dtype=torch.bfloat16)).any()
    assert select(w, SaraConfig(threshold=0.1001)).tolist() == [0]


@pytest.mark.parametrize(("density", "count"), [(0.26, 26), (0.01, 1), (1e-6, 1), (0.999, 99)])
def test_density_takes_the_floor_and_at_least_one(density, count):
    w = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    chosen = select(w, SaraConfig(density=density))
    assert torch.equal(chosen.long(), by_sorting(w.flatten().abs(), count))
    assert chosen.dtype == torch.int32


def test_a_checkpoint_size_overrules_the_rule():
    w = torch.linspace(0.1, 1.0, 10)
    assert select(w, SaraConfig(threshold=0.35), count=5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([0, 1, 10], 3, r"position 10 is beyond the 10 entries there; the adapter was made for another base"),
        ([-1, 1, 2], 3, "position -1 is beyond"),
        ([0, 2, 1], 3, "not sorted and distinct"),
        ([0, 1, 1], 3, "not sorted and distinct"),
        ([0, 1], 3, "2 positions for 3 values"),
    ],
)
def test_damaged_positions_are_refused(indices, values, message):
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        check_positions(torch.tensor(indices, dtype=torch.int32), values, 10, "here")


def test_positions_of_another_dtype_are_refused():
    with pytest.raises(ValueError, match="int32"):
        check_positions(torch.tensor([0, 1]), 2, 10, "here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"density": 0.0}, "density must lie strictly between"),
        ({"density": 1.0}, "density must lie strictly between"),
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"threshold": float("nan")}, "threshold cannot be nan"),
        ({"block_rows": -1}, "block_rows"),
        ({"progressive_iter": -1}, "progressive_iter must be at least 1"),
        ({"rank_mode": "some"}, "rank_mode must be one of one, all"),
        ({"rank_on": "values"}, "rank_on must be one of"),
        ({"decay": "l2"}, "decay must be one of"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        SaraConfig(**settings)
