"""The loss term: slices, purity, state, processes. The numbers against OVOR's own code are in test_virtual_outliers_reference.py."""

import math
from dataclasses import replace

import pytest
import torch
from losses.fakes import FakeTrainer, context_of, session_of
from torch import nn

from hf_cl.heads import LinearHead
from hf_cl.losses import VirtualOutliers, vor_penalty

WIDTH = 6
SMALL = {"num_offsets": 20, "num_boundary": 5, "per_class": 8, "k": 4, "std": 0.5}


def blobs(counts, seed=0, first=0):
    """Features of `counts[i]` samples of class first + i, and their labels."""
    labels = torch.repeat_interleave(torch.arange(first, first + len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    means = 3.0 * torch.randn(first + len(counts), WIDTH, generator=generator)
    return means[labels] + torch.randn(len(labels), WIDTH, generator=generator), labels


def started(counts=(10, 10, 10), first=0, head=None, seed=0, batch_size=8, **kwargs):
    """A term after begin_session and begin_epoch, its trainer, and the session's features and labels."""
    features, labels = blobs(list(counts), first=first)
    session = replace(session_of(first + len(counts), len(counts), labels.tolist()), batch_size=batch_size)
    head = head or seeded_head(len(session.class_names))
    trainer = FakeTrainer(head, features, session, seed=seed)
    term = VirtualOutliers(**{**SMALL, **kwargs})
    term.begin_session(trainer, session)
    term.begin_epoch(trainer, 0)
    return term, trainer, features, labels


def seeded_head(num_classes):
    torch.manual_seed(5)
    return LinearHead(WIDTH, num_classes)


def loss_of(term, trainer, features, labels):
    return term(context_of(trainer.head(features), labels, trainer.session, features=features))


def shown(term, trainer):
    """The outliers that the term shows the head in the present step."""
    seen = []
    with trainer.head.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        loss_of(term, trainer, trainer.features[:1], torch.tensor(trainer.session.train.labels[:1]))
    return seen[-1]  # the first are the features of the batch


def slices(term, trainer, steps):
    """The outliers of the next steps."""
    result = []
    for _ in range(steps):
        result.append(shown(term, trainer))
        term.after_step(None)
    return result


def test_features_are_those_of_the_training_augmentation():
    _, trainer, *_ = started()
    assert trainer.asked == [(trainer.session.train, True)]


def test_outliers_are_spread_over_the_steps_of_the_epoch_and_come_back_cyclically():
    term, trainer, *_ = started()  # 30 features in 4 batches of 8; min(20 * 5, 8 * 3) = 24 outliers
    assert term.state_dict()["outliers"].shape == (24, WIDTH)
    first, again = slices(term, trainer, 4), slices(term, trainer, 4)
    assert [len(s) for s in first] == [6, 6, 6, 6]
    assert torch.equal(torch.cat(first), term.state_dict()["outliers"])
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_rest_of_an_uneven_division_opens_the_next_round():
    term, trainer, *_ = started(batch_size=6)  # 5 steps, 24 outliers: 4 each, 4 left over
    assert torch.equal(torch.cat(slices(term, trainer, 6)), term.state_dict()["outliers"])


def test_fewer_outliers_than_steps():
    term, trainer, *_ = started(num_offsets=1, num_boundary=2, batch_size=4)  # 2 outliers, 8 steps
    outliers = term.state_dict()["outliers"]
    assert [s.shape for s in slices(term, trainer, 8)] == [(1, WIDTH)] * 8
    assert torch.equal(torch.cat(slices(term, trainer, 4)), outliers.repeat(2, 1))


@pytest.mark.parametrize("mode", ["npos", "official"])
@pytest.mark.parametrize("counts", [(25,), (1,), (1, 1), (5, 5, 5, 5, 5)])
def test_few_features(mode, counts):
    """25 features with k = 50, one class, one feature: k is cut, outliers stay two-dimensional, the loss is finite."""
    term, trainer, features, labels = started(counts, mode=mode, k=50, num_boundary=50, per_class=1, batch_size=128)
    assert term.state_dict()["outliers"].shape == (len(counts), WIDTH)
    assert loss_of(term, trainer, features, labels).isfinite()


def test_evaluating_twice_sees_the_same_outliers_and_changes_nothing():
    term, *rest = started()
    random = torch.get_rng_state()
    generator = rest[0].generator.get_state()
    before = term.state_dict()["step"]
    first, second = loss_of(term, *rest), loss_of(term, *rest)
    assert torch.equal(first, second)
    assert term.state_dict()["step"] == before
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(rest[0].generator.get_state(), generator)
    term.after_step(rest[0])
    assert not torch.equal(loss_of(term, *rest), first)


def test_only_the_sessions_columns_count():
    term, trainer, features, labels = started(first=2)
    loss_of(term, trainer, features, labels).backward()
    assert (trainer.head.weight.grad[:2] == 0).all() and (trainer.head.bias.grad[:2] == 0).all()
    assert trainer.head.weight.grad[2:].abs().sum() > 0
    value = loss_of(term, trainer, features, labels)
    with torch.no_grad():
        trainer.head.bias[:2].add_(100.0)
    assert torch.equal(loss_of(term, trainer, features, labels), value)


def test_no_gradient_when_all_hinges_are_closed():
    term, trainer, features, labels = started(tau_id=1e3, tau_ood=-1e3)
    loss = loss_of(term, trainer, features, labels)
    loss.backward()
    assert loss == 0
    assert all((p.grad == 0).all() for p in trainer.head.parameters())


def test_it_pushes_features_up_and_outliers_down():
    torch.manual_seed(0)
    term, trainer, features, labels = started(tau_id=-8.0, tau_ood=-2.0, std=2.0, batch_size=30)
    optimizer = torch.optim.Adam(trainer.head.parameters(), lr=0.05)

    def energies():
        with torch.no_grad():
            real, outliers = trainer.head(features), trainer.head(term.state_dict()["outliers"])
            return real.logsumexp(1).mean().item(), outliers.logsumexp(1).mean().item()

    real, outliers = energies()
    for _ in range(50):
        loss_of(term, trainer, features, labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    new_real, new_outliers = energies()
    assert new_real - new_outliers > real - outliers + 1.0
    assert new_real > real


def test_the_same_seed_gives_the_same_outliers_and_the_next_epoch_others():
    (a, trainer, *_), (b, *_), (c, *_) = started(seed=3), started(seed=3), started(seed=4)
    first = a.state_dict()["outliers"]
    assert torch.equal(first, b.state_dict()["outliers"])
    assert not torch.equal(first, c.state_dict()["outliers"])
    a.after_step(trainer)
    a.begin_epoch(trainer, 1)
    assert not torch.equal(first, a.state_dict()["outliers"]) and a.state_dict()["step"] == 0


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    started(head=LinearHead(WIDTH, 3, device="meta"))  # its own initialisation draws nothing
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("cuts", [(8,), (3,), (3, 4), (1, 2, 6)])
def test_uneven_shares_weighted_by_their_size_give_the_loss_of_one(cuts):
    """As processes have them: each its share of the features, and weight (its samples) x (processes) / (samples)."""
    term, trainer, features, labels = started()
    features, labels = features[:9], labels[:9]
    for _ in range(3):
        parts = zip(features.tensor_split(cuts), labels.tensor_split(cuts), strict=True)
        mean = sum(loss_of(term, trainer, x, y) * len(y) / len(labels) for x, y in parts)
        torch.testing.assert_close(mean, loss_of(term, trainer, features, labels))
        term.after_step(None)


def test_a_resumed_term_goes_on_with_the_same_slices():
    term, trainer, *_ = started()
    slices(term, trainer, 2)
    other = VirtualOutliers(**SMALL)
    other.begin_session(trainer, trainer.session)
    other.load_state_dict(term.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(slices(other, trainer, 3), slices(term, trainer, 3), strict=True))


def test_state_between_sessions():
    """It holds no outliers, and is loaded before the next session begins."""
    term, trainer, features, labels = started()
    term.end_session(trainer, trainer.session)
    other = VirtualOutliers(**SMALL)
    other.load_state_dict(term.state_dict())
    other.begin_session(trainer, trainer.session)
    with pytest.raises(RuntimeError, match="no outliers before begin_epoch"):
        loss_of(other, trainer, features, labels)


def test_an_empty_class_is_named():
    features, labels = blobs([4, 4])
    session = session_of(3, 3, labels.tolist())
    with pytest.raises(ValueError, match=r"session 0 has no training images of \['class 2'\]"):
        VirtualOutliers().begin_session(FakeTrainer(nn.Identity(), features, session), session)


def test_half_precision_features_give_float32_outliers():
    features, labels = blobs([10, 10])
    session = replace(session_of(2, 2, labels.tolist()), batch_size=8)
    term = VirtualOutliers(**SMALL)
    trainer = FakeTrainer(seeded_head(2), features.bfloat16(), session)
    term.begin_session(trainer, session)
    term.begin_epoch(trainer, 0)
    assert term.state_dict()["outliers"].dtype == torch.float32


def test_the_penalty_is_linear_far_out_and_quadratic_near():
    """Energies 3 above tau_id and 0.5 below tau_ood: huber 3 - 1/2 and 0.5^2 / 2, mse 9 and 0.25; means over each side."""
    real, outliers = torch.tensor([[2.0]]), torch.tensor([[1.5], [-9.0]])
    huber = vor_penalty(real, outliers, tau_id=-5.0, tau_ood=-1.0)
    torch.testing.assert_close(huber.item(), 2.5 + 0.125 / 2)
    mse = vor_penalty(real, outliers, tau_id=-5.0, tau_ood=-1.0, penalty="mse")
    torch.testing.assert_close(mse.item(), 9.0 + 0.25 / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "nops"}, "mode must be 'npos' or 'official', got 'nops'"),
        ({"penalty": "l1"}, "penalty must be 'huber' or 'mse'"),
        ({"k": 0}, "k must be positive"),
        ({"std": -0.1}, "std must be positive"),
        ({"std": math.nan}, "std must be positive"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        VirtualOutliers(**settings)


def test_doubling_the_weight_doubles_the_gradient():
    gradients = []
    for weight in (0.1, 0.2):
        term, trainer, features, labels = started(weight=weight)
        (loss_of(term, trainer, features, labels) * term.weight_at(0)).backward()
        gradients.append(trainer.head.weight.grad)
    torch.testing.assert_close(2 * gradients[0], gradients[1])
    assert gradients[0].abs().sum() > 0


def test_needs_nothing_beyond_features():
    assert VirtualOutliers().needs == frozenset() and VirtualOutliers().name == "virtual_outliers"
    assert VirtualOutliers().weight_at(0) == 0.1
    assert VirtualOutliers().mode == "npos"
