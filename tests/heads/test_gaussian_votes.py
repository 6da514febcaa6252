"""Votes of held-back images against the reference: hits, choice, scores, curves and temperature."""

from __future__ import annotations

import pytest
import torch
from gaussian_reference import CLASSES, close, reference, statistics_after, value

from hf_cl.heads import gaussian_votes
from hf_cl.heads.gaussian_fit import Gaussians
from hf_cl.heads.gaussian_votes import OWN_SHARES, SHRINKAGES, TEMPERATURES, Candidates, Form, Setting, Votes
from hf_cl.heads.held_back import held_back
from hf_cl.memory import ClassStatistics

FORMS = {"shared": Form("shared"), "mixed": Form("mixed"), "low_rank": Form("low_rank", rank=value("rank"))}


@pytest.fixture(autouse=True)
def thresholds_of_the_fixture(monkeypatch):
    monkeypatch.setattr(gaussian_votes, "FEW", value("few"))
    monkeypatch.setattr(gaussian_votes, "FEW_SHARE", value("few_share"))
    monkeypatch.setattr(gaussian_votes, "VOTES", value("votes_needed"))


def test_grids_are_those_of_the_reference():
    assert tuple(reference("grid_shrinkage").tolist()) == SHRINKAGES
    assert tuple(reference("grid_own_share").tolist()) == OWN_SHARES
    torch.testing.assert_close(TEMPERATURES, reference("temperature_grid"), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", FORMS)
def test_votes_of_three_sessions(kind):
    candidates = Candidates("auto", "auto", FORMS[kind])
    votes = Votes.none(candidates)
    own = kind != "shared"
    for session in range(3):
        mine, held = reference("session") == session, reference("heldback")
        fold = statistics_after(session - 1) if session else ClassStatistics({"pooled", "full"})
        fold.update(reference("features")[mine & ~held], reference("labels")[mine & ~held])
        counts = reference(f"counts_after_{session}").double()
        rows, labels = reference("features")[mine & held], reference("labels")[mine & held]
        assert torch.equal(labels, reference(f"heldback_labels_after_{session}"))
        fitted = Gaussians.of(fold, CLASSES[session], own=own)
        before = votes.voted.clone()
        votes.add(candidates, fitted, rows, labels, counts, int(mine.sum()) / len(reference("labels")[mine].unique()))
        assert votes.voted == value(f"voted_after_{session}")
        assert bool(votes.voted > before) == value(f"votes_after_{session}")
        assert torch.equal(votes.hits, reference(f"{kind}_hits_after_{session}").reshape(-1))
        setting, curve = votes.choose(candidates)
        check_chosen(setting, reference(f"{kind}_chosen_after_{session}"))
        close(dict(candidates.scores(fitted, rows, counts))[curve], f"{kind}_heldback_scores_after_{session}")
        close(votes.curves[curve], f"{kind}_nll_curve_after_{session}")
        assert votes.temperature(curve) == pytest.approx(value(f"{kind}_temperature_after_{session}"), rel=1e-12)
        whole = Gaussians.of(statistics_after(session), CLASSES[session], own=own)
        one = Candidates("auto", "auto", FORMS[kind])
        close(dict(one.scores(whole, reference("query"), counts))[curve], f"{kind}_auto_scores_after_{session}")


def check_chosen(setting: Setting, chosen: torch.Tensor) -> None:
    if chosen.isnan().all():
        assert setting == Setting(None, None) or setting == Setting(None, 0.0)
    else:
        assert [setting.shrinkage, setting.own_share] == chosen.tolist()


def test_a_number_fixes_its_side():
    assert Candidates(0.1, "auto", FORMS["mixed"]).grid == [Setting(0.1, w, careful=True) for w in OWN_SHARES]
    assert Candidates("auto", 0.2, FORMS["mixed"]).grid == [Setting(a, 0.2) for a in SHRINKAGES]
    assert Candidates("rule", "rule", FORMS["mixed"]).grid == [Setting(None, None)]
    assert Candidates("auto", "auto", Form("shared", flatness=0.2)).grid == [Setting(None, 0.0, careful=True)]
    assert Candidates(0.1, "auto", FORMS["mixed"]).without_votes == Setting(0.1, None)


def test_a_fifth_is_held_back_whatever_the_order():
    labels = torch.tensor([0] * 11 + [1] * 2 + [2] + [3] * 4)
    index = torch.arange(100, 118)
    chosen = held_back(labels, index, seed=3, session=1)
    assert [int(chosen[labels == c].sum()) for c in range(4)] == [2, 1, 0, 1]
    order = torch.randperm(18, generator=torch.Generator().manual_seed(0))
    assert torch.equal(held_back(labels[order], index[order], 3, 1), chosen[order])
    others = [held_back(labels, index, seed, session) for seed, session in [(4, 1), (3, 2)]]
    assert all(not torch.equal(other, chosen) for other in others)
