from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_cl.metrics import CalibrationBins, check_calibration, expected_calibration_error


def by_definition(confidence, correct):
    """The loop over bins of Guo et al.: above the lower end, up to and with the upper one."""
    ends, error = np.linspace(0, 1, 16), 0.0
    for low, high in pairwise(ends):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    return error


def test_by_hand():
    bins = CalibrationBins.of([0.9, 0.92, 0.5, 0.55], [True, False, True, True])  # 0.91 against 1/2 in one bin; 0.5 and 0.55 in two
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.41 + 0.5 + 0.45) / 4)
    assert bins.points()[-1] == (pytest.approx(0.91), 0.5, 2)
    assert expected_calibration_error(CalibrationBins()) is None


def test_a_bin_is_closed_on_the_right():
    bins = CalibrationBins.of([1.0, 0.2, 0.0, 1.0000001], [1, 1, 0, 1])
    assert [i for i, n in enumerate(bins.images) if n] == [0, 2, 14]  # 0.2 is the end of the third; 0 goes with the first


@settings(deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 300))
def test_equals_the_definition_and_adds_up(seed, n):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(n), rng.random(n) < 0.6
    whole = CalibrationBins.of(confidence, correct)
    assert expected_calibration_error(whole) == pytest.approx(by_definition(confidence, correct), abs=2e-9)
    cut = int(rng.integers(0, n + 1))
    parts = [CalibrationBins.of(confidence[part], correct[part]) for part in (slice(cut, None), slice(cut))]
    assert parts[0] + parts[1] == whole  # exactly, in any order


def test_what_is_no_probability_is_refused():
    for wrong in (np.nan, -0.1, 1.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            CalibrationBins.of([0.5, wrong], [1, 0])


def test_records_that_do_not_fit_are_refused():
    bins = CalibrationBins.of([0.5, 0.9], [1, 0])
    check_calibration([bins], [2])
    with pytest.raises(ValueError, match=r"hold \[3\] images .*; got \[2\]"):
        check_calibration([bins], [3])
    with pytest.raises(ValueError, match="needs 15 bins"):
        check_calibration([CalibrationBins([2], [1], [1])], [2])
    with pytest.raises(ValueError, match="more right images than images"):
        check_calibration([CalibrationBins(bins.images, [2] * 15, bins.billionths)], [2])
