"""Codes against reference numbers, and back; what is packed comes out as it went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cl.adapters.small.codes import VALUE_BITS, dequantise, gaps, pack_codes, positions_of, quantise, unpack_codes
from hf_cl.adapters.small.tensors import BLOCK, can_be_small, expand_all, read_table, shrink_all, written_table

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "shrink" / "quantiser.npz")


@pytest.mark.parametrize("bits", VALUE_BITS)
def test_codes_are_the_reference_s(bits):
    codes, scale = quantise(torch.from_numpy(REFERENCE["W"]), bits)
    assert np.array_equal(codes.numpy(), REFERENCE[f"codes_{bits}"])
    np.testing.assert_allclose(scale.numpy(), REFERENCE[f"scale_{bits}"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(dequantise(codes, scale).numpy(), REFERENCE[f"value_{bits}"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("bits", VALUE_BITS)
def test_codes_come_back(bits):
    top = 2 ** (bits - 1) - 1
    codes = torch.randint(-top, top + 1, (1001,), dtype=torch.int8, generator=torch.Generator().manual_seed(bits))
    packed = pack_codes(codes, bits)
    assert len(packed) == -(-1001 * bits // 8) and torch.equal(unpack_codes(packed, bits, 1001), codes)


def test_a_tensor_is_codes_times_scale_and_tiny_changes_are_not_lost():
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "sparse": 1e-9 * torch.randn(3, 333, generator=generator),
        "zeros": torch.zeros(300),
        "positions": torch.randperm(5000, generator=generator)[:600].sort().values.to(torch.int32).view(2, 300).sort(-1).values,
    }
    table, codes, scales = shrink_all(tensors, {"sparse": 8, "zeros": 2})
    assert read_table(written_table(table)) == table
    found = expand_all(table, codes, scales)
    assert torch.equal(found["positions"], tensors["positions"]) and not found["zeros"].any()
    step = torch.nn.functional.pad(tensors["sparse"].flatten(), (0, -999 % BLOCK)).view(-1, BLOCK).abs().amax(1).max() / 127
    assert 0 < (found["sparse"] - tensors["sparse"]).abs().max() < 0.51 * step


def test_what_can_be_small():
    assert can_be_small(torch.zeros(255)) is None and can_be_small(torch.zeros(256)) == "values"
    assert can_be_small(torch.arange(256, dtype=torch.int32)) == "positions"
    assert can_be_small(torch.arange(256, dtype=torch.int32).flip(0)) is None and can_be_small(torch.ones(999, dtype=torch.uint8)) is None
    positions = torch.tensor([3, 3, 9], dtype=torch.int32)
    assert gaps(positions).tolist() == [3, 0, 6] and torch.equal(positions_of(gaps(positions)), positions)


@pytest.mark.parametrize(
    ("rows", "bits", "message"), [([[1.0, float("inf")]], 8, "not finite"), ([[1.0]], 5, "bits must be one of 2, 3, 4, 8")]
)
def test_what_has_no_codes(rows, bits, message):
    with pytest.raises(ValueError, match=message):
        quantise(torch.tensor(rows), bits)
