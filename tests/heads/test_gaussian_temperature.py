"""The temperature of a Gaussian head whose classes come again: it follows statistics that grow."""

from __future__ import annotations

import fitted_heads
import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.heads import build_head
from hf_cl.heads.gaussian_votes import TEMPERATURES, Votes

SPEC = {"type": "gaussian", "covariance": "shared", "shrinkage": 0.1}


def images_of(centers: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(features, labels): `count` images of each class, spread alike in all directions."""
    labels = torch.arange(len(centers)).repeat(count)
    return centers[labels] + torch.randn(len(labels), centers.shape[1], generator=generator, dtype=torch.float64), labels


def fitted(sessions):
    head = build_head(SPEC, sessions[0][0].shape[1], 0)
    fitted_heads.run(head, sessions)
    return head.eval()


def test_the_first_domain_does_not_speak_for_a_head_that_has_seen_six(monkeypatch):
    """Five images of a class in each of six sessions; the scores of the first are of a covariance with hardly more images than features."""
    generator = torch.Generator().manual_seed(0)
    centers = 0.3 * torch.randn(20, 64, generator=generator, dtype=torch.float64)
    sessions = [images_of(centers, 5, generator) for _ in range(6)]
    features, labels = images_of(centers, 50, generator)
    head = fitted(sessions)
    with torch.no_grad():
        scores = head(features).double() * head.own_temperature
    best = float(TEMPERATURES[torch.stack([F.cross_entropy(scores / t, labels) for t in TEMPERATURES]).argmin()])
    assert 0.6 < head.own_temperature / best < 1.6
    monkeypatch.setattr(Votes, "fade", lambda *args: None)
    assert fitted(sessions).own_temperature > 3 * best


def test_nothing_fades_where_classes_come_once(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, labels = images_of(torch.randn(6, 8, generator=generator, dtype=torch.float64), 10, generator)
    sessions = fitted_heads.split_by_class(features, labels, [2, 2, 2])
    head = fitted(sessions)
    monkeypatch.setattr(Votes, "fade", lambda *args: None)
    assert torch.equal(head.curves, fitted(sessions).curves) and head.curves.any()


def test_what_fades_is_told_by_images_of_the_known_classes_alone(monkeypatch):
    """Session 1 brings ten images of class 0, which had ten, and a new class; class 1 stays as it was."""
    said = []
    monkeypatch.setattr(Votes, "fade", lambda votes, before, now: said.append((before, now)))
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    more = images_of(centers, 10, generator)
    fitted([images_of(centers, 10, generator), (more[0], torch.where(more[1] == 1, 2, more[1]))])
    assert said == [(0, 0), (20, 30)]
