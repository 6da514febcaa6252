"""What the others say of an image, in closed form."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cl.memory.leave_one_out import LeaveOneOut, suspicion

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "data_check" / "labels.npz")


def test_scores_are_those_of_the_reference():
    features, labels = torch.from_numpy(REFERENCE["features"]), torch.from_numpy(REFERENCE["labels"])
    scores = LeaveOneOut(features, labels, 4).scores(float(REFERENCE["lam"]))
    np.testing.assert_allclose(scores, REFERENCE["loo"], atol=1e-9)
    found, others = suspicion(scores, labels)
    np.testing.assert_allclose(found, REFERENCE["suspicion"], atol=1e-9)
    assert (others != labels).all()


def test_scores_equal_a_fit_without_each_image():
    """More columns than images, and a class that is left out with its only image."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 1, 0, 1])
    fit = LeaveOneOut(features, labels, 3)
    lam = fit.penalty()
    found = fit.scores(lam)
    for i in range(9):
        rest = torch.arange(9) != i
        x, y = features[rest], torch.nn.functional.one_hot(labels[rest], 3).double()
        centred = x - x.mean(0)
        weight = torch.linalg.solve(centred.T @ centred + lam * torch.eye(12, dtype=torch.float64), centred.T @ (y - y.mean(0)))
        torch.testing.assert_close(found[i], y.mean(0) + (features[i] - x.mean(0)) @ weight, atol=1e-9, rtol=0)


def test_the_penalty_is_the_best_of_its_neighbours():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(40) % 3
    features = torch.randn(40, 5, generator=generator) + torch.nn.functional.one_hot(labels, 5)
    fit = LeaveOneOut(features, labels, 3)

    def error(lam):
        return float((fit.targets - fit.scores(lam)).square().mean())

    chosen = fit.penalty()
    assert error(chosen) <= min(error(chosen * 10), error(chosen / 10))
    some = torch.tensor([3, 30])
    torch.testing.assert_close(fit.scores(chosen, some), fit.scores(chosen)[some])
    whole = fit.predict(features, chosen)  # seen images are named at least as well as unseen ones
    assert (whole.argmax(1) == labels).sum() >= (fit.scores(chosen).argmax(1) == labels).sum()
    with pytest.raises(ValueError, match="at least two"):
        LeaveOneOut(features[:1], labels[:1], 3)
