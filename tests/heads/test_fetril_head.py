"""FeTrIL against the official script's pseudo-features and scikit-learn's machines; translation and what it is good for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fitted_heads import run, split_by_class

from hf_cl.heads import build_head
from hf_cl.heads.fetril import FeTrILHead, linear_svm, pseudo_features
from hf_cl.memory import ClassStatistics

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "fetril" / "fetril.npz")
FEATURES = torch.from_numpy(REFERENCE["features"])  # [C, n, D]
QUERY = torch.from_numpy(REFERENCE["query"])
SEEN = (4, 6, 8)


def sessions():
    labels = torch.arange(8).repeat_interleave(20)
    return split_by_class(FEATURES.reshape(160, 6), labels, (4, 2, 2))


@pytest.mark.parametrize("session", range(3))
def test_pseudo_features_and_machines_of_the_reference(session):
    statistics = ClassStatistics()
    for i, (features, labels) in enumerate(sessions()[: session + 1]):
        statistics.count_session(i, features, labels)
    features, labels = sessions()[session]
    pseudo = [rows for rows, _ in pseudo_features(statistics, features, labels, SEEN[session])]
    np.testing.assert_allclose(torch.stack(pseudo), REFERENCE[f"pseudo_{session}"], rtol=0, atol=2e-8)
    new = sorted(set(labels.tolist()))
    assert [c if c in new else statistics.nearest(c, new) for c in range(SEEN[session])] == REFERENCE[f"neighbor_{session}"].tolist()
    x = torch.nn.functional.normalize(torch.from_numpy(REFERENCE[f"pseudo_{session}"]).reshape(-1, 6), dim=1)
    weight, bias = linear_svm(x, torch.arange(SEEN[session]).repeat_interleave(20), SEEN[session], 1.0, tolerance=1e-10)
    np.testing.assert_allclose(weight, REFERENCE[f"svc_weight_{session}"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(bias, REFERENCE[f"svc_bias_{session}"], rtol=0, atol=1e-6)


def test_the_head_gives_the_scores_of_the_reference():
    head = FeTrILHead(6, 0, dtype=torch.float64)
    run(head, sessions())  # features go through float32, as a model's do
    np.testing.assert_allclose(head.eval()(QUERY).detach(), REFERENCE["scores_2"], rtol=0, atol=1e-4)
    loaded = FeTrILHead(6, 8, dtype=torch.float64)
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded.eval()(QUERY), head(QUERY))
    assert head.as_linear() is None


def test_pseudo_features_have_the_old_mean_and_the_new_scatter():
    (first, old), (features, labels), _ = sessions()
    statistics = ClassStatistics({"full"})
    statistics.update(first, old)
    statistics.update(features, labels)
    for rows, label in pseudo_features(statistics, features, labels, 6):
        torch.testing.assert_close(rows.mean(0), statistics.mean(label), rtol=0, atol=1e-10)
        source = label if label >= 4 else statistics.nearest(label, [4, 5])
        torch.testing.assert_close(rows.T.cov(), statistics.covariance(source), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_translation_keeps_old_classes(seed):
    generator = torch.Generator().manual_seed(seed)
    centers = 0.75 * torch.randn(12, 16, generator=generator)
    labels = torch.arange(12).repeat_interleave(60)

    def draw():
        return centers[labels] + torch.randn(len(labels), 16, generator=generator)

    train, test = draw(), draw()
    head, joint = FeTrILHead(16, 0, normalize=False), FeTrILHead(16, 0, normalize=False)
    run(head, split_by_class(train, labels, (8, 4)))
    run(joint, [(train, labels)])
    right, best = ((h.eval()(test).argmax(1) == labels).double().mean() for h in (head, joint))
    assert right >= best - 0.06
    forgetful = linear_svm(train[labels >= 8].double(), labels[labels >= 8], 12, 1.0)  # no pseudo-features at all
    assert right > ((test.double() @ forgetful[0].T + forgetful[1]).argmax(1) == labels).double().mean() + 0.3


def test_images_in_another_order_change_nothing():
    features, labels = sessions()[0]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    for one, other in zip(linear_svm(features, labels, 4, 1.0), linear_svm(features[order], labels[order], 4, 1.0), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("settings", "message"), [({"C": 0.0}, "C is a positive number"), ({"old_features_per_class": 0}, "whole number")])
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "fetril", **settings}, 8, 2)


def test_a_row_without_length_is_refused():
    with pytest.raises(ValueError, match="1 rows of session 0 have no length"):
        run(FeTrILHead(2, 0), [(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.tensor([0, 1]))])
