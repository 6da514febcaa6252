import json

import pytest
import torch

from hf_cl.heads import ClassStatistics


@pytest.fixture
def sample():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (60,), generator=generator)
    return 100.0 + torch.randn(60, 5, generator=generator) * torch.arange(1.0, 6.0) + labels[:, None], labels


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_count_mean_covariance(sample):
    features, labels = sample
    statistics = ClassStatistics()
    statistics.update(features, labels)
    assert statistics.classes == (0, 1, 2)
    for label in range(3):
        mine = features[labels == label].double()
        assert statistics.count(label) == len(mine)
        close(statistics.mean(label), mine.mean(0))
        close(statistics.covariance(label), mine.T.cov())
    close(statistics.means([2, 0]), torch.stack([features[labels == c].double().mean(0) for c in (2, 0)]))


@pytest.mark.parametrize("cuts", [[1, 59], [20, 20, 20], [1] * 60])
def test_batches_and_processes_give_the_same_as_the_whole(sample, cuts):
    features, labels = sample
    whole, batches, processes = ClassStatistics(), ClassStatistics(), ClassStatistics()
    whole.update(features, labels)
    for x, y in zip(features.split(cuts), labels.split(cuts), strict=True):
        batches.update(x, y)
        process = ClassStatistics()
        process.update(x, y)
        processes.merge(process)
    for other in (batches, processes):
        assert other.classes == whole.classes
        for label in whole.classes:
            assert other.count(label) == whole.count(label)
            torch.testing.assert_close(other.mean(label), whole.mean(label), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(other.covariance(label), whole.covariance(label), rtol=1e-9, atol=1e-9)


def test_float64_although_the_features_are_not():
    features = 4096.0 + torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    statistics = ClassStatistics()
    for row in features.to(torch.float16):
        statistics.update(row[None], torch.zeros(1, dtype=torch.long))
    half = features.to(torch.float16).double()
    close(statistics.covariance(0), half.T.cov().reshape(1, 1))


def test_one_sample_has_zero_covariance():
    statistics = ClassStatistics()
    statistics.update(torch.randn(1, 3), torch.tensor([4]))
    assert torch.equal(statistics.covariance(4), torch.zeros(3, 3, dtype=torch.float64))


def test_subset_stays_as_it_was(sample):
    statistics = ClassStatistics()
    statistics.update(*sample)
    part = statistics.subset([1])
    mean = part.mean(1).clone()
    statistics.update(*sample)
    assert part.classes == (1,) and part.count(1) * 2 == statistics.count(1)
    assert torch.equal(part.mean(1), mean)


def test_state_round_trip(sample):
    statistics, other = ClassStatistics(), ClassStatistics(covariance=False)
    statistics.update(*sample)
    state = statistics.state_dict()
    json.dumps({k: v for k, v in state.items() if k != "classes"})
    other.load_state_dict(state)
    other.update(*sample)
    statistics.update(*sample)
    for label in range(3):
        assert torch.equal(other.covariance(label), statistics.covariance(label))
        assert torch.equal(other.mean(label), statistics.mean(label))


def test_without_covariances(sample):
    statistics, full = ClassStatistics(covariance=False), ClassStatistics()
    for each in (statistics, full):
        each.update(*sample)
        each.update(*sample)
    assert torch.equal(statistics.mean(1), full.mean(1))
    with pytest.raises(ValueError, match="counts and means only"):
        statistics.covariance(1)
    with pytest.raises(ValueError, match="cannot be merged"):
        statistics.merge(full)


def test_an_unseen_class_is_named():
    statistics = ClassStatistics()
    assert statistics.count(7) == 0
    for ask in (statistics.mean, statistics.covariance, lambda c: statistics.means([c]), lambda c: statistics.subset([c])):
        with pytest.raises(KeyError, match="no statistics of class 7"):
            ask(7)
