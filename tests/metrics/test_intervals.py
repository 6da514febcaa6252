import pytest
from scipy import stats

from hf_cl.metrics import wilson_interval


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (3, 7), (50, 100), (999, 1000), (0, 20), (20, 20)])
def test_equals_the_interval_of_scipy(right, images):
    expected = stats.binomtest(right, images).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right / images, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_stays_in_0_to_1_and_shrinks_with_images():
    assert wilson_interval(1.0, 5)[1] == 1.0 and wilson_interval(0.0, 5)[0] == 0.0
    widths = [high - low for low, high in (wilson_interval(0.8, n) for n in (10, 100, 1000))]
    assert widths[0] > 2.5 * widths[1] > 7.5 * widths[2] > 0
