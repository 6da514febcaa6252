"""Loss, gradients and synthesis of outliers against numbers of OVOR's own code (tests/reference/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_cl.losses import kth_squared_distance, synthesize_outliers, vor_penalty

REFERENCE = Path(__file__).parents[1] / "reference" / "ovor"


def load(name):
    with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.mark.parametrize("setting", ["default", "mse", "lmda1_t"])
def test_loss_and_gradients(setting):
    arrays = load("vor_loss")
    weight, tau_id, tau_ood, huber = arrays[f"{setting}.cfg"].tolist()
    logits, outlier_logits = arrays["id_logits"].requires_grad_(), arrays["ood_logits"].requires_grad_()
    penalty = vor_penalty(logits, outlier_logits, tau_id=tau_id, tau_ood=tau_ood, penalty="huber" if huber else "mse")
    (weight * penalty).backward()
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close((weight * penalty).detach(), arrays[f"{setting}.loss"], **close)
    torch.testing.assert_close(logits.grad, arrays[f"{setting}.grad_id"], **close)
    torch.testing.assert_close(outlier_logits.grad, arrays[f"{setting}.grad_ood"], **close)


def multiset(indices):
    return sorted(indices.tolist())


def synth(size, dtype):
    """Features, offsets, number of classes, settings and the reference arrays of one case of vor_synth."""
    arrays = {key.removeprefix(f"{size}."): value for key, value in load("vor_synth").items() if key.startswith(f"{size}.")}
    k, _, num_boundary, std, per_class = arrays["cfg"].tolist()
    settings = {"k": int(k), "num_boundary": int(num_boundary), "std": std, "per_class": int(per_class)}
    return arrays["feats"].to(dtype), arrays["offsets"].to(dtype), len(arrays["class_sizes"]), settings, arrays


cases = pytest.mark.parametrize("size", ["tiny", "mid"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@cases
@dtypes
def test_npos(size, dtype):
    features, offsets, num_classes, settings, arrays = synth(size, dtype)
    outliers = synthesize_outliers(features, offsets, num_classes, mode="npos", **settings)
    assert multiset(outliers.boundary) == multiset(arrays["boundary_ids"])
    assert multiset(outliers.candidates) == multiset(arrays["npos_idx"])
    m = len(offsets)
    expected = features[outliers.boundary[outliers.candidates // m]] + settings["std"] * offsets[outliers.candidates % m]
    assert torch.equal(outliers.vectors, expected)


@cases
@dtypes
def test_official(size, dtype):
    """Every draw occurs num_boundary times among the candidates, so the numbers of the draws are compared."""
    features, offsets, num_classes, settings, arrays = synth(size, dtype)
    outliers = synthesize_outliers(features, offsets, num_classes, mode="official", **settings)
    assert multiset(outliers.boundary) == multiset(arrays["boundary_ids"])
    assert multiset(outliers.candidates % len(offsets)) == multiset(arrays["oods_official_offset_idx"])
    assert torch.equal(outliers.vectors, settings["std"] * offsets[outliers.candidates % len(offsets)])


@cases
def test_kth_squared_distance(size):
    features, offsets, _, settings, arrays = synth(size, torch.float64)
    distances = kth_squared_distance(settings["std"] * offsets, F.normalize(features), settings["k"])
    torch.testing.assert_close(distances, arrays["kth_sqdist_first_block"].double(), rtol=0, atol=1e-3)


@cases
@pytest.mark.parametrize("unit", [False, True], ids=["boundary", "boundary_unit"])
def test_replay_of_two_other_readings_of_the_paper(size, unit):
    """OVOR's code with the boundary point added, and the same with normalised queries; both out of our public pieces."""
    features, offsets, num_classes, settings, arrays = synth(size, torch.float64)
    bank = F.normalize(features)
    boundary = kth_squared_distance(bank, bank, settings["k"]).topk(settings["num_boundary"]).indices
    candidates = (features[boundary, None] + settings["std"] * offsets).flatten(0, 1)
    distances = kth_squared_distance(F.normalize(candidates) if unit else candidates, bank, settings["k"])
    kept = distances.topk(settings["per_class"] * num_classes).indices
    assert multiset(kept) == multiset(arrays["boundary_unit_idx" if unit else "boundary_idx"])


def test_official_outliers_are_few_vectors_many_times_and_npos_ones_are_not():
    features, offsets, num_classes, settings, _ = synth("mid", torch.float64)
    official = synthesize_outliers(features, offsets, num_classes, mode="official", **settings).vectors
    npos = synthesize_outliers(features, offsets, num_classes, mode="npos", **settings)
    assert len(official.unique(dim=0)) * settings["num_boundary"] // 2 <= len(official)
    assert len(npos.vectors.unique(dim=0)) == len(npos.vectors)
    points = len((npos.candidates // len(offsets)).unique())
    assert points > settings["num_boundary"] // 2


def test_chunks_do_not_change_distances(monkeypatch):
    features, offsets, *_ = synth("tiny", torch.float64)
    whole = kth_squared_distance(offsets, features, 3)
    monkeypatch.setattr("hf_cl.losses.virtual_outliers._CHUNK", 100)
    torch.testing.assert_close(kth_squared_distance(offsets, features, 3), whole)
    assert torch.equal(kth_squared_distance(offsets, features, 10_000), kth_squared_distance(offsets, features, len(features)))
