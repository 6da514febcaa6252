"""Nats: the process and the tail of its error against reference numbers, and that they rise and fall with the task."""

import math
from pathlib import Path

import numpy as np
import pytest

from hf_cl.data_check.difficulty import RandomError, _targets, posterior, random_error

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "data_check" / "difficulty.npz")


def reference_error():
    names = ("train", "train_labels", "test", "test_labels")
    return random_error(*(REFERENCE[name] for name in names), 4)


def test_the_process_is_that_of_the_reference():
    mean, covariance = posterior(REFERENCE["train"], _targets(REFERENCE["train_labels"], 4), REFERENCE["test"])
    np.testing.assert_allclose(mean, REFERENCE["posterior_mean"], atol=1e-9)
    np.testing.assert_allclose(covariance, REFERENCE["posterior_cov"], atol=1e-9)
    found = reference_error()
    np.testing.assert_allclose(np.sort(found.weights), np.sort(REFERENCE["weights"]), atol=1e-12)
    np.testing.assert_allclose(np.sort(found.offsets), np.sort(REFERENCE["offsets"]), atol=1e-9)
    assert abs(found.mean - REFERENCE["mean_error"]) < 1e-9


def test_nats_are_those_of_the_reference_and_of_draws():
    found = reference_error()
    nats = [found.nats(float(error)) for error in REFERENCE["errors"]]
    np.testing.assert_allclose(nats, REFERENCE["nats"], rtol=1e-6)
    for value, share in zip(nats, REFERENCE["monte_carlo_probability"], strict=True):
        if share > 0:
            spread = math.sqrt((1 - share) / share / 400_000)  # of -log share
            assert abs(value + math.log(share)) < 4 * spread + 0.02 * value


def test_nats_are_those_of_the_exact_distribution():
    scale, offset, freedom = (float(REFERENCE[f"ncx2_{name}"]) for name in ("scale", "nc", "df"))
    one = RandomError(np.array([scale]), np.array([offset * scale]), int(freedom))
    nats = [one.nats(float(error)) for error in REFERENCE["ncx2_errors"]]
    np.testing.assert_allclose(nats, REFERENCE["ncx2_nats_saddlepoint"], rtol=1e-6)
    np.testing.assert_allclose(nats, REFERENCE["ncx2_nats_exact"], atol=0.01)


@pytest.mark.parametrize("error", [1e-30, 1e-3, 1.0, 30.0])
def test_nats_fall_as_more_error_is_allowed(error):
    """Down to a probability that no draw would ever meet, through the mean, and to certainty."""
    one = RandomError(np.array([0.1, 0.05]), np.array([0.2, 0.1]), 3)
    less, more = one.nats(error), one.nats(1.5 * error)
    assert 0 <= more <= less < math.inf
    around = [one.nats(one.mean * factor) for factor in (0.999, 1, 1.001)]
    assert max(around) - min(around) < 0.2


def task(shots, flipped, seed):
    """Four classes of Gaussian features: the training images, some of which have another class's label, and test images."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(4, 6)) * 2
    tested, labels = np.arange(60) % 4, np.arange(4 * 40) % 4
    test, train = (means[y] + rng.normal(size=(len(y), 6)) for y in (tested, labels))
    wrong = rng.random(len(labels)) < flipped
    labels = np.where(wrong, (labels + 1) % 4, labels)
    return train[: 4 * shots], labels[: 4 * shots], test, tested  # one problem: more shots are added to the same


def test_nats_fall_with_shots_and_rise_with_wrong_labels():
    for seed in range(5):
        by_shots = [random_error(*task(shots, 0.0, seed), 4).nats(0.08) for shots in (5, 10, 20, 40)]
        assert by_shots == sorted(by_shots, reverse=True), by_shots
        by_noise = [random_error(*task(20, flipped, seed), 4).nats(0.08) for flipped in (0.0, 0.2, 0.4)]
        assert by_noise == sorted(by_noise), by_noise
