"""The calibration probe on logits whose right temperature is known, and that it reads as many images as it is told."""

from types import SimpleNamespace

import pytest
import torch
from losses.fakes import Labels
from torch import nn

from hf_cl.contracts import FeatureSet, Head, Session, Test
from hf_cl.heads.stablemax import stablemax
from hf_cl.metrics import CalibrationBins, expected_calibration_error
from hf_cl.probes import Calibration
from hf_cl.probes.calibration import best_temperature, calibration_of, negative_log_likelihood


def softmax(logits):
    return logits.softmax(-1)


def drawn(count, seed=0):
    """Logits [n, 4] and labels that were drawn from their very softmax: calibrated at temperature 1."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_a_wrong_scale_is_found_and_undone(scale):
    logits, labels = drawn(4000)
    found = calibration_of(scale * logits, labels, softmax)
    assert found["temperature"] == pytest.approx(scale, rel=0.06)
    assert found["scaled_expected_calibration_error"] < 0.03
    assert found["scaled_negative_log_likelihood"] == pytest.approx(negative_log_likelihood(softmax(logits), labels), abs=2e-3)
    if scale != 1.0:
        assert found["expected_calibration_error"] > 0.1
        assert found["scaled_negative_log_likelihood"] < found["negative_log_likelihood"] - 0.1


def test_the_search_finds_where_the_likelihood_has_no_slope():
    logits, labels = drawn(500)
    temperature = best_temperature(logits, labels, softmax)
    beta = torch.tensor(1 / temperature, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits * beta, labels), beta)
    assert abs(float(slope)) < 1e-6


def test_no_image_judges_a_temperature_that_was_fitted_to_it():
    """Eight images that a temperature can be fitted to at will: each half asks the other for the opposite."""
    sure = torch.tensor([[4.0, 0.0]], dtype=torch.float64).expand(8, 2)
    labels = torch.tensor([0, 1] * 4)  # the even half is always right, the odd one never
    found = calibration_of(sure, labels, softmax)
    assert found["temperature"] > 10  # all together: a coin
    assert found["scaled_negative_log_likelihood"] > found["negative_log_likelihood"]


def test_probabilities_are_the_heads():
    logits, labels = drawn(2000)
    found = calibration_of(logits, labels, stablemax)
    assert found["negative_log_likelihood"] == pytest.approx(negative_log_likelihood(stablemax(logits), labels))
    best = stablemax(logits).max(1)
    bins = CalibrationBins.of(best.values.numpy(), (best.indices == labels).numpy())
    assert found["expected_calibration_error"] == expected_calibration_error(bins)


def test_what_rounds_to_nothing_stays_finite():
    logits = torch.tensor([[0.0, 3000.0], [0.0, -torch.inf]], dtype=torch.float64)
    found = calibration_of(logits, torch.tensor([0, 0]), softmax)
    assert 100 < found["negative_log_likelihood"] < 1000


class Rows(Head):
    """Its logits are the features, less in training."""

    def forward(self, features):
        return 0 * features if self.training else features


class Loop:
    """Features are the logits; counts who asked for what."""

    def __init__(self, logits):
        self.logits, self.head, self.asked = logits, Rows().train(), []
        self.accelerator = SimpleNamespace(autocast=torch.no_grad)

    def features_of(self, dataset):
        self.asked.append(list(dataset.indices))
        index = torch.tensor(dataset.indices)
        return FeatureSet(self.logits[index].float(), torch.as_tensor(dataset.labels), index)


def session_with(sizes, labels, candidates=(0, 1, 2, 3)):
    tests, start = [], 0
    for number, size in enumerate(sizes):
        data = Labels(labels[start : start + size].tolist())
        data.indices = list(range(start, start + size))
        tests.append(Test(f"session-{number}", data, candidates))
        start += size
    names = ("a", "b", "c", "d")
    return Session(id=len(sizes) - 1, class_names=names, new_class_names=names, train=Labels([]), tests=tuple(tests))


def test_a_session_reads_all_its_tests_with_the_head_in_eval_mode():
    logits, labels = drawn(60)
    probe, loop = Calibration(), Loop(logits)
    probe.begin_session(loop, session := session_with([40, 20], labels))
    probe.end_session(loop, session)
    assert loop.asked == [[*range(40)], [*range(40, 60)]] and loop.head.training
    expected = calibration_of(logits.float().double(), labels, softmax)
    report = probe.report()
    assert report["sessions"] == [{"session": 1, **expected}]
    assert {key: report[key] for key in expected} == expected


def test_large_tests_are_read_evenly_and_in_part():
    logits, labels = drawn(100)
    probe, loop = Calibration(images=10), Loop(logits)
    probe.end_session(loop, session_with([70, 0, 30], labels))
    assert loop.asked == [[5, 15, 25, 35, 45, 55, 65], [75, 85, 95]]
    assert probe.report()["images"] == 10


def test_a_resumed_probe_goes_on():
    logits, labels = drawn(20)
    straight, resumed = Calibration(), Calibration()
    for number in (1, 2):
        straight.end_session(Loop(logits), session_with([10] * number, labels))
        if number == 1:
            resumed.load_state_dict(straight.state_dict())
    resumed.end_session(Loop(logits), session_with([10, 10], labels))
    assert straight.report() == resumed.report() and len(resumed.report()["sessions"]) == 2


def test_a_protocol_with_candidates_of_its_own_is_refused():
    with pytest.raises(ValueError, match="The probe calibration needs a protocol"):
        Calibration().begin_session(None, session_with([4], torch.zeros(4, dtype=torch.long), candidates=(0, 1)))


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="images must be at least 2, got 1"):
        Calibration(images=1)
