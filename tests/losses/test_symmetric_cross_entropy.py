"""Cross-entropy in both directions against the official code's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_cl.losses import SymmetricCrossEntropy, symmetric_cross_entropy


def test_the_official_loss_and_its_gradient():
    given = np.load(Path(__file__).parents[1] / "reference" / "slca" / "sce.npz")
    logits, known = torch.from_numpy(given["logits"]).requires_grad_(), int(given["known"])
    loss = symmetric_cross_entropy(logits[:, known:], torch.from_numpy(given["targets"]) - known, float(given["a"]), float(given["b"]))
    loss.backward()
    assert loss.item() == pytest.approx(float(given["loss"]), abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.from_numpy(given["grad"]), atol=2e-6, rtol=0)


def test_a_wrong_label_pulls_no_harder_than_its_bound():
    labels = torch.tensor([0])
    for logits in ([0.0, 30.0], [0.0, 300.0]):
        assert symmetric_cross_entropy(torch.tensor([logits]), labels, 0.0, 1.0).item() == pytest.approx(4 * np.log(10), rel=1e-4)


@pytest.mark.parametrize("settings", [{"a": -1.0}, {"a": 0.0, "b": 0.0}, {"classes": "old"}])
def test_what_makes_no_sense_is_refused(settings):
    with pytest.raises(ValueError, match="SymmetricCrossEntropy"):
        SymmetricCrossEntropy(**settings)
