"""The digits are scikit-learn's own. (tests/speed/test_run_imports.py sees that it is not imported for them.)"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from hf_cl.scenarios.digits import read_digits


def test_the_same_digits_as_scikit_learn_gives():
    splits, theirs = read_digits(), load_digits()
    images = splits.images["digits"]
    assert images.labels.tolist() == theirs.target.tolist() and splits.class_names == tuple(map(str, theirs.target_names))
    for position in (0, 7, len(images) - 1):
        want = np.rint(theirs.images[position] * (255 / 16)).astype(np.uint8)
        assert (np.asarray(images[position]["image"])[..., 0] == want).all()
