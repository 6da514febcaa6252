from __future__ import annotations

import math

import pytest
import torch
from coact_reference import arrays, assert_close
from losses.fakes import session_of

from hf_cl.contracts import Context, Outputs
from hf_cl.losses import SupervisedContrastive, supervised_contrastive


def views(count=2, samples=6, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(samples, width, generator=generator, dtype=dtype) for _ in range(count)]


LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


@pytest.mark.parametrize("case", ["2v", "3v", "1v_nopos"])
def test_official_numbers(case):
    """Value, and gradient with respect to the embeddings before they are normalised."""
    features = arrays()[f"supcon_{case}_features"].clone().requires_grad_()
    loss = supervised_contrastive(features.unbind(1), arrays()[f"supcon_{case}_labels"])
    assert_close(loss, arrays()[f"supcon_{case}_loss"])
    loss.backward()
    assert_close(features.grad, arrays()[f"supcon_{case}_grad"])


def test_formula_by_hand():
    a = views(dtype=torch.float64)
    anchors = torch.nn.functional.normalize(torch.cat(a), dim=1)
    labels = LABELS.repeat(2).tolist()
    total = 0.0
    for i, anchor in enumerate(anchors):
        s = [float(anchor @ other) / 0.5 for other in anchors]
        normaliser = math.log(sum(math.exp(v) for m, v in enumerate(s) if m != i))
        positives = [j for j, label in enumerate(labels) if label == labels[i] and j != i]
        total -= sum(s[j] - normaliser for j in positives) / max(len(positives), 1)
    assert supervised_contrastive(a, LABELS, temperature=0.5).item() == pytest.approx(total / len(anchors), abs=1e-12)


def test_order_of_samples_and_views_does_not_matter():
    a = views(3)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    permuted = supervised_contrastive([v[order] for v in reversed(a)], LABELS[order])
    torch.testing.assert_close(permuted, supervised_contrastive(a, LABELS))


def test_length_of_embeddings_does_not_matter():
    a = views()
    torch.testing.assert_close(supervised_contrastive([v * 100 for v in a], LABELS), supervised_contrastive(a, LABELS))


def test_a_view_twice_is_a_perfect_positive():
    """One class per sample and the same view twice: each anchor's positive has the similarity 1 / t."""
    (a,) = views(1)
    found = supervised_contrastive([a, a], torch.arange(6), temperature=1.0)
    cosine = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(a, dim=1).T
    others = torch.cat([cosine, cosine], 1).exp().sum(1) - math.e  # all but the anchor itself
    torch.testing.assert_close(found, (others.log() - 1).mean())


@pytest.mark.parametrize(("samples", "labels"), [(4, [0, 1, 2, 3]), (1, [0])], ids=["no positive pair", "one anchor"])
def test_a_batch_without_a_positive_pair_gives_zero(samples, labels):
    (a,) = views(1, samples)
    a.requires_grad_()
    loss = supervised_contrastive([a], torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0 and torch.equal(a.grad, torch.zeros_like(a))


def test_one_class_is_finite():
    a = [v.requires_grad_() for v in views()]
    loss = supervised_contrastive(a, torch.zeros(6, dtype=torch.long))
    loss.backward()
    assert loss.isfinite() and loss > 0 and all(v.grad.isfinite().all() for v in a)


def test_half_precision_inputs_are_compared_in_float32():
    a = [v.bfloat16() for v in views()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = supervised_contrastive(a, LABELS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, supervised_contrastive([v.float() for v in a], LABELS))


def test_samples_that_do_not_count():
    a = views()
    valid = torch.tensor([True, True, False, True, True, False])
    expected = supervised_contrastive([v[valid] for v in a], LABELS[valid])
    torch.testing.assert_close(supervised_contrastive(a, LABELS, valid=valid), expected)


def test_the_term_takes_the_first_view_and_the_last_view_of_the_roles():
    student, teacher, base = views(3)
    asked = []

    def frozen(role, view=-1):
        asked.append((role, view))
        embedding = {"teacher": teacher, "base": base}[role]
        return Outputs(features=embedding, logits=embedding, embedding=embedding)

    student.requires_grad_()
    first = Outputs(features=student * 0, logits=student * 0, embedding=student)
    second = Outputs(features=student * 0, logits=student * 0, embedding=student * float("nan"))  # the student's second view is not read
    context = Context({"labels": LABELS, "index": torch.arange(6)}, (first, second), session_of(3, 3), 0, 0, frozen)
    loss = SupervisedContrastive(["teacher", "base"], temperature=0.2)(context)
    torch.testing.assert_close(loss, supervised_contrastive([student, teacher, base], LABELS, temperature=0.2))
    assert asked == [("teacher", -1), ("base", -1)]
    loss.backward()
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize(("settings", "message"), [({"roles": "teacher"}, "in a list"), ({"temperature": 0.0}, "positive")])
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SupervisedContrastive(**settings)
