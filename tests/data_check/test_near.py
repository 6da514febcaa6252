"""Near copies: both keys and their threshold against reference numbers."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_cl.data_check.near import difference_hash, hash_pairs, near_pairs, near_threshold, stored_again, thumbnail, unit
from hf_cl.data_check.report import share_interval

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "data_check" / "overlap.npz")


def unit_rows(name):
    return unit(REFERENCE[name], np.zeros(6))


def test_the_threshold_is_that_of_the_reference():
    copies = (unit_rows("train") * unit_rows("copies")).sum(1)
    cosines = unit_rows("test") @ unit_rows("train").T
    foreign = np.where(REFERENCE["train_labels"][None] != REFERENCE["test_labels"][:, None], cosines, -1).max(1)
    np.testing.assert_allclose(foreign, REFERENCE["foreign_best"], atol=1e-12)
    calibrated, raised = near_threshold(copies, REFERENCE["foreign_best"], float(REFERENCE["foreign_limit"]))
    assert abs(calibrated - REFERENCE["tau_copies"]) < 1e-12 and abs(raised - REFERENCE["tau"]) < 1e-12
    assert (cosines.max(1) > raised + 1e-12).tolist() == REFERENCE["leaked"].tolist()
    assert near_threshold(copies, np.empty(0), 0.005) == (calibrated, calibrated)
    assert near_threshold(copies, REFERENCE["foreign_best"], 1.0) == (calibrated, calibrated), "all may have a twin"


def test_the_interval_of_the_share_is_that_of_the_reference():
    low, high = share_interval(int(REFERENCE["leaked"].sum()), len(REFERENCE["leaked"]))
    assert abs(low - REFERENCE["interval_low"]) < 1e-12 and abs(high - REFERENCE["interval_high"]) < 1e-12
    assert share_interval(0, 10)[0] == 0 and share_interval(10, 10)[1] == 1


def test_hashes_and_pairs_are_those_of_the_reference():
    train, test = difference_hash(REFERENCE["thumbs_train"]), difference_hash(REFERENCE["thumbs_test"])
    np.testing.assert_array_equal(np.bitwise_count(test[:, None] ^ train[None]), REFERENCE["hash_distance"])
    i, j, cosines = near_pairs((test, unit_rows("test")), (train, unit_rows("train")), above=REFERENCE["tau_copies"])
    assert len(cosines) == len(i) and cosines.min() > REFERENCE["tau_copies"]
    assert sorted(map(list, zip(i.tolist(), j.tolist(), strict=True))) == REFERENCE["near_pairs"].tolist()


def test_pairs_of_one_set_are_found_once_whatever_the_blocks(monkeypatch):
    hashes = np.random.default_rng(0).integers(0, 1 << 10, 300).astype(np.uint64)
    close = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 2
    expected = [(i, j) for i, j in zip(*np.nonzero(close), strict=True) if i < j]
    monkeypatch.setattr("hf_cl.data_check.near.BLOCK", 700)  # two rows at a time
    found = [(a, b) for i, j in hash_pairs(hashes, bits=2) for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    assert sorted(found) == expected and len(expected) > 100
    assert list(hash_pairs(hashes[:0], bits=2)) == []


@pytest.mark.parametrize("size", [(64, 48), (301, 200)])
def test_a_picture_that_was_stored_again_keeps_its_hash_nearly(size):
    noise = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    again = stored_again(image)
    assert again.size == size and again.mode == "RGB" and again.tobytes() != image.tobytes()
    first, second = (difference_hash(thumbnail(one)[None])[0] for one in (image, again))
    assert np.bitwise_count(first ^ second) <= 8
    mirrored = difference_hash(thumbnail(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[None])[0]
    assert np.bitwise_count(first ^ mirrored) > 8, "mirrors are not claimed"
