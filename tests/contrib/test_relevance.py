"""Known classes that make up new ones: the reference numbers, copies of a relevant class, and a probe that changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from device_runs import Run, build
from safetensors.torch import load_file
from torch.nn import functional as F

from hf_cl.contrib.relevance import RelevanceProbe, relevance
from hf_cl.methods import linear_probe

NUMBERS = np.load(Path(__file__).parents[1] / "reference" / "relevance" / "relevance.npz")


def number(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(NUMBERS[name]))


def test_coefficients_and_counts_are_the_reference():
    found = relevance(number("sources"), number("targets"), lam=float(number("relative_lam")), centre=False)
    torch.testing.assert_close(found.coefficients, number("nu"), rtol=0, atol=1e-8)
    plenty = [10_000] * len(found.coefficients)
    assert found.counts(int(number("total")), plenty, int(number("floor"))) == number("counts").tolist()
    w, target, nu = number("sources"), number("targets")[:, 0], found.coefficients[:, 0]
    pull = w.T @ (target - w @ nu)  # the conditions of the minimum
    penalty = float(number("lam")[0])
    assert (pull.abs() <= penalty + 1e-8).all() and torch.allclose(pull[nu != 0], penalty * nu[nu != 0].sign())


def test_orthonormal_sources_are_thresholded_softly():
    w, target, penalty = number("orthonormal"), number("orthonormal_target")[:, None], float(number("orthonormal_lam"))
    share = penalty / float((w.T @ target).abs().max())
    found = relevance(w, target, lam=share, centre=False).coefficients[:, 0]
    torch.testing.assert_close(found, number("orthonormal_nu"), rtol=0, atol=1e-8)


def test_no_source_gives_more_than_it_has():
    found = relevance(torch.eye(4)[:, :3], torch.tensor([[4.0], [2.0], [1.0], [0.0]]), lam=0.01, centre=False)
    assert found.counts(14, [100, 100, 100]) == [8, 4, 2]
    assert found.counts(14, [5, 100, 100]) == [5, 6, 3]
    assert found.counts(14, [5, 4, 100], floor=3) == [5, 4, 5]
    with pytest.raises(ValueError, match="all images, 14"):
        found.counts(15, [5, 5, 4])


def planted(seed: int, copies: int) -> tuple[int, int]:
    """How many of three relevant directions the 8 most important sources cover, and the 8 nearest."""
    draw = torch.Generator().manual_seed(seed)
    directions = F.normalize(torch.randn(3, 64, generator=draw), dim=1)
    near = directions.repeat_interleave(copies, 0)  # cosine .98 to their direction
    near = F.normalize(near + 0.2 * F.normalize(torch.randn(near.shape, generator=draw), dim=1) * (copies > 1), dim=1)
    others = F.normalize(torch.randn(40 - len(near), 64, generator=draw), dim=1)
    sources = torch.cat([near, others]).T  # [D, 40]
    target = (torch.tensor([1.0, 0.6, 0.35]) @ directions + 0.02 * torch.randn(64, generator=draw))[:, None]
    chosen = relevance(sources, target, centre=False).importance.topk(8).indices
    nearest = (F.normalize(target, dim=0).T @ sources)[0].topk(8).indices
    covered = [{place // copies for place in places.tolist() if place < len(near)} for places in (chosen, nearest)]
    return len(covered[0]), len(covered[1])


def test_of_near_copies_it_takes_few_and_so_covers_all_that_is_relevant():
    found = [planted(seed, copies=5) for seed in range(5)]
    assert all(lasso == 3 for lasso, _ in found) and all(nearest < 3 for _, nearest in found), found
    control = [planted(seed, copies=1) for seed in range(5)]  # without copies the nearest do as well
    assert all(lasso == 3 for lasso, _ in control) and sum(nearest == 3 for _, nearest in control) >= 4, control


def test_what_cannot_be():
    means = torch.eye(4)
    for sources, lam, said in ((means, 1.0, "lam"), (means[:, :1], 0.1, "two sources"), (means * torch.nan, 0.1, "not finite")):
        with pytest.raises(ValueError, match=said):
            relevance(sources, means, lam=lam)
    with pytest.raises(ValueError, match="shown is at least 1"):
        RelevanceProbe(shown=0)
    assert not relevance(means, torch.zeros(4, 1), centre=False).coefficients.any()


def test_the_probe_reports_and_leaves_the_run_as_it_is(tmp_path):
    probe, tensors = RelevanceProbe(), []
    for name, probes in (("with", [probe]), ("without", [])):
        build(Run(lambda: linear_probe(epochs=1)), tmp_path / name, tmp_path, sessions=3, probes=probes).fit()
        tensors.append(load_file(tmp_path / name / "adapters" / "session-2" / "adapter_model.safetensors"))
    assert tensors[0].keys() == tensors[1].keys() and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    sessions = probe.report()["sessions"]
    assert [found["session"] for found in sessions] == [1, 2]
    assert set(sessions[1]["made_of"]) == {"class 4", "class 5"} and 1 <= sessions[1]["sources_per_class"] <= 4
    for found in sessions[1]["made_of"].values():
        sizes = [abs(size) for size in found.values()]
        assert set(found) <= {f"class {number}" for number in range(4)} and sizes == sorted(sizes, reverse=True)
    again = RelevanceProbe()
    again.load_state_dict(probe.state_dict())
    assert again.report() == probe.report()
