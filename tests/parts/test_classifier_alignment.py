"""Classifier alignment against the official code's numbers, and what it does to rows that were trained apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_heads import FakeTrainer, session_of
from torch.nn import functional as F

from hf_cl.contracts import Part
from hf_cl.heads import CosineHead, LinearHead, build_head
from hf_cl.memory import ClassStatistics
from hf_cl.parts import ClassifierAlignment, OldRowsRest
from hf_cl.parts.classifier_alignment import alignment_loss, mean_scale

REFERENCE = Path(__file__).parents[1] / "reference" / "slca"
NAMES = [str(c) for c in range(100)]


class Trainer(FakeTrainer):
    """With draws by key, as the loop gives them."""

    def generator_for(self, *key):
        return torch.Generator().manual_seed(hash(key) % 2**31)


class Given(ClassifierAlignment):
    """Draws are those of a file."""

    def __init__(self, inputs, targets, **kwargs):
        super().__init__(**kwargs)
        self.inputs, self.targets = list(inputs), list(targets)

    def _draw(self, statistics, bounds, head, generator):
        classes = bounds[-1]
        inputs, targets = torch.cat(self.inputs[:classes]), torch.cat(self.targets[:classes])
        self.inputs, self.targets = self.inputs[classes:], self.targets[classes:]
        return inputs, targets


def tensors_of(name):
    return {key: torch.from_numpy(np.asarray(value)) for key, value in np.load(REFERENCE / f"{name}.npz").items()}


@pytest.mark.parametrize(("name", "settings", "age_scale"), [("slca", {}, 0.0), ("slcapp", {"mean_shrink": 0.0}, 0.02)])
def test_the_official_alignment(name, settings, age_scale, monkeypatch):
    given = tensors_of(f"{name}_alignment")
    head = LinearHead(5, 0, age_scale=age_scale)
    for _ in range(2):
        head.grow(NAMES[:2])
    with torch.no_grad():
        for kind in ("weight", "bias"):
            getattr(head, kind).copy_(torch.cat([given[f"init_heads_{t}_0_{kind}"] for t in (0, 1)]))
    if age_scale:
        wanted = torch.cat([given["init_scales_0_weight"].expand(2), given["init_scales_1_weight"].expand(2)])
        torch.testing.assert_close(1 + age_scale * head.ages().float(), wanted)
    losses = []
    monkeypatch.setattr("hf_cl.parts.classifier_alignment.alignment_loss", lambda *args: losses.append(alignment_loss(*args)) or losses[-1])
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.arange(n))  # the rows are permuted already
    part = Given(given["inputs"], given["targets"], epochs=2, **settings)
    part._first = [0, 2]
    trainer = SimpleNamespace(head=head, class_statistics=lambda s: None, generator_for=lambda *key: None)
    part.end_session(trainer, SimpleNamespace(id=1, class_names=NAMES[:4]))  # pyright: ignore[reportArgumentType]
    assert np.allclose([loss.item() for loss in losses], given["loss"], atol=1e-6, rtol=1e-6)
    for kind in ("weight", "bias"):
        wanted = torch.cat([given[f"final_heads_{t}_0_{kind}"] for t in (0, 1)])
        torch.testing.assert_close(getattr(head, kind).detach(), wanted, atol=1e-6, rtol=0)
    assert torch.equal(part.state_dict()["backup"]["weight"][:2], given["init_heads_0_0_weight"])


def test_means_are_shrunk_by_the_age_of_their_session():
    given = tensors_of("slca_alignment")
    factors = torch.tensor([mean_scale(0.1, s, 1) for s in (0, 0, 1, 1)], dtype=torch.float64)[:, None]
    torch.testing.assert_close((given["class_mean"] * factors).float(), given["loc"], atol=1e-6, rtol=0)


def test_drawn_features_of_old_classes_are_scaled_down_by_a_random_age():
    head = LinearHead(3, 0, age_scale=0.5)
    for _ in range(2):
        head.grow(["a"])
    statistics = ClassStatistics({"full"})
    statistics.update(torch.ones(2, 3).cumsum(0) * 0 + 4.0, torch.tensor([0, 1]))
    statistics.update(torch.full((2, 3), 4.0), torch.tensor([0, 1]))  # no spread beyond eps
    part = ClassifierAlignment(samples_per_class=500, mean_shrink=0.0, feature_scale_jitter=0.1)
    features, labels = part._draw(statistics, [0, 1, 2], head, torch.Generator().manual_seed(0))
    assert features[labels == 1].mean() == pytest.approx(4.0, abs=0.01)
    scales = 4.0 / features[labels == 0].mean(1)
    assert 1.38 < scales.min() < 1.42 and 1.58 < scales.max() < 1.62


# What it does (M): five sessions of four classes, whose rows were trained apart, with other lengths and rates
def apart(seed):
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(20, 32, generator=generator)
    spread = torch.randn(32, 32, generator=generator) / 32**0.5 * 1.3

    def draw(count):
        rows = [m + torch.randn(count, 32, generator=generator) @ spread for m in means]
        return torch.cat(rows), torch.arange(20).repeat_interleave(count)

    (train, labels), test = draw(60), draw(50)
    head = LinearHead(32, 0)
    torch.manual_seed(seed)
    for t in range(5):
        head.grow(NAMES[:4])
        mine = (labels >= 4 * t) & (labels < 4 * t + 4)
        rows = head.weight.detach()[-4:].clone().requires_grad_()
        optimizer = torch.optim.SGD([rows], lr=0.02 * (t + 1))
        for _ in range(30 + 30 * t):
            loss = F.cross_entropy(train[mine] @ rows.T, labels[mine] - 4 * t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            head.weight[-4:] = rows
            head.bias[-4:] = 0.5 * t
    return head, (train, labels), test


def accuracy(head, test):
    return (head(test[0]).argmax(1) == test[1]).double().mean().item()


def aligned(head, train, means=lambda statistics: None):
    statistics = ClassStatistics({"full"})
    statistics.update(*train)
    means(statistics)
    twin = LinearHead(32, 20)
    twin.load_state_dict(head.state_dict())
    part = ClassifierAlignment(samples_per_class=64)
    part._first = [0, 4, 8, 12, 16]
    trainer = SimpleNamespace(head=twin, class_statistics=lambda s: statistics, generator_for=Trainer(head).generator_for)
    part.end_session(trainer, SimpleNamespace(id=4, class_names=NAMES[:20]))  # pyright: ignore[reportArgumentType]
    return twin


def exchanged(statistics):
    means = statistics.means(range(20))
    for c in range(20):
        statistics.apply_linear(None, means[(c + 7) % 20] - means[c], [c])


def nowhere(statistics):
    means = statistics.means(range(20))
    for c in range(20):
        statistics.apply_linear(None, -means[c], [c])


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_were_trained_apart_agree_afterwards(seed):
    head, train, test = apart(seed)
    before, after = accuracy(head, test), accuracy(aligned(head, train), test)
    assert after > before + 0.02
    assert after > accuracy(aligned(head, train, nowhere), test)
    assert accuracy(aligned(head, train, exchanged), test) < before


# In a run of sessions
def data(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat_interleave(8)
    return torch.randn(len(labels), 6, generator=generator) + labels[:, None], labels


def test_the_next_session_begins_with_the_rows_before_alignment():
    head = LinearHead(6, 0)
    trainer, part = Trainer(head), ClassifierAlignment(epochs=1, samples_per_class=8)
    trainer.statistics = ClassStatistics(part.statistics)
    unaligned = aligned_rows = torch.empty(0)
    for t in range(3):
        head.grow(NAMES[:2])
        new = head.weight[-2:].detach().clone()
        session = session_of(t, NAMES[: 2 * t + 2], 2, *data(t, [2 * t, 2 * t + 1]))
        twin = ClassifierAlignment()
        twin.load_state_dict(part.state_dict())  # between two sessions a resume puts it in a new part
        twin.begin_session(trainer, session)  # pyright: ignore[reportArgumentType]
        part.begin_session(trainer, session)  # pyright: ignore[reportArgumentType]
        assert twin.state_dict() == part.state_dict() and not part.state_dict()["backup"]
        assert torch.equal(head.weight, torch.cat([unaligned.view(-1, 6), new]))
        if t == 2:
            assert not torch.equal(head.weight[:4], aligned_rows)
        unaligned = head.weight.detach().clone()
        part.end_session(trainer, session)  # pyright: ignore[reportArgumentType]
        aligned_rows = head.weight.detach().clone()
        assert torch.equal(aligned_rows, unaligned) == (t == 0)


def test_other_heads_are_refused():
    session = session_of(0, ["a"], 1, *data(0, [0]))
    for head in (CosineHead(6, 1), build_head({"type": "linear", "pooler": True}, 6, 1)):
        with pytest.raises(ValueError, match=f"this run has a {type(head).__name__}"):
            ClassifierAlignment().begin_session(Trainer(head), session)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="rows age"):
        ClassifierAlignment(feature_scale_jitter=0.1).begin_session(Trainer(LinearHead(6, 1)), session)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logit_norm": 0.0}, "logit_norm"),
        ({"epochs": 0}, "epochs"),
        ({"mean_shrink": 1.5}, "mean_shrink"),
        ({"covariance": "diag"}, "covariance is full or low_rank"),
        ({"restore": 1}, "restore"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ClassifierAlignment(**settings)


# Rows that rest
def test_old_rows_rest_under_weight_decay_and_momentum():
    for part, rests in ((OldRowsRest(), True), (Part(), False)):
        head = LinearHead(6, 3)
        old = head.weight.detach().clone(), head.bias.detach().clone()
        trainer = SimpleNamespace(head=head, session=SimpleNamespace(own=range(2, 3)))
        part.begin_epoch(trainer, 0)  # pyright: ignore[reportArgumentType]
        optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            F.cross_entropy(head(torch.randn(4, 6))[:, 2:], torch.zeros(4, dtype=torch.long)).backward()
            head.weight.grad[2] += 1.0
            optimizer.step()
            part.after_step(trainer)  # pyright: ignore[reportArgumentType]
            part.load_state_dict(part.state_dict())
        assert torch.equal(head.weight[:2], old[0][:2]) == torch.equal(head.bias[:2], old[1][:2]) == rests
        assert not torch.equal(head.weight[2], old[0][2])


def test_a_head_without_rows_cannot_rest():
    trainer = SimpleNamespace(head=build_head({"type": "dkvb", "codebooks": 2, "keys": 3, "key_dim": 2}, 6, 4), session=None)
    with pytest.raises(ValueError, match="DKVBHead has none that train"):
        OldRowsRest().begin_epoch(trainer, 0)  # pyright: ignore[reportArgumentType]


def test_sessions_without_classes_take_no_part():
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert torch.equal(alignment_loss(logits, labels, [0, 2, 2, 3], 0.1), alignment_loss(logits, labels, [0, 2, 3], 0.1))
