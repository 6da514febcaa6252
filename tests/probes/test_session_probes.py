"""The probes of epochs and of labels learned by heart: their numbers, what they show on data built for it, and that they leave no trace."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loop_case import build, digest
from stream import Images, Stream
from torch import nn

from hf_cl.contracts import FeatureSet, Head, Probe, Session
from hf_cl.metrics import memorisation_summary, validation_summary
from hf_cl.probes import EpochProbe, MemorizationProbe, build_probes
from hf_cl.results.charts import look
from hf_cl.results.epoch_remarks import epoch_remarks
from hf_cl.results.report_epochs import epoch_charts
from hf_cl.run.first_checks import check_settings
from hf_cl.settings import RunSettings

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "session_probes" / "traces.npz")


# Numbers
def test_numbers_are_those_of_the_reference():
    found = validation_summary(REFERENCE["validation_loss"].tolist(), REFERENCE["validation_accuracy"].tolist())
    assert {name: pytest.approx(float(REFERENCE[name]), abs=1e-12) for name in found} == found
    suspect, correct = REFERENCE["suspect"], REFERENCE["correct"]
    suspects, others = correct[:, suspect].mean(1), correct[:, ~suspect].mean(1)
    np.testing.assert_allclose(suspects, REFERENCE["suspect_accuracy"], atol=1e-12)
    np.testing.assert_allclose(others, REFERENCE["other_accuracy"], atol=1e-12)
    learned = memorisation_summary(suspects.tolist(), others.tolist())
    assert learned["memorised"] == pytest.approx(float(REFERENCE["memorised"]), abs=1e-12)
    assert (learned["memorised_from"], learned["others_learned"]) == (int(REFERENCE["memorised_from"]), 8)


def test_epochs_that_were_not_looked_at_count_too():
    found = validation_summary([2.0, 1.0, 1.5], [0.1, 0.4, 0.3], [4, 9, 11])
    assert found["best_epoch"] == 9 and found["epochs_wasted"] == 2 and found["accuracy_lost"] == pytest.approx(0.1)
    assert set(validation_summary([], []).values()) == {None}
    assert memorisation_summary([0.2, 0.6], [0.9, 1.0], [1, 3]) == {"memorised": 0.6, "memorised_from": 3, "others_learned": 1}
    assert memorisation_summary([], []) == {"memorised": None, "memorised_from": None, "others_learned": None}


def one(session, **values):
    trace = {"best_epoch": 6, "epochs_wasted": 53, "accuracy_lost": 0.016, "relative_degradation": 0.7, "degradation": 1.2, "epochs": 60}
    return {
        "session": session,
        **trace,
        "measured": [6, 59],
        "validation_loss": [1.7, 2.9],
        "validation_accuracy": [0.489, 0.473],
        **values,
    }


def test_sentences_say_what_was_seen_and_no_more():
    learned = {"measured": [0, 59], "suspect_accuracy": [0.1, 0.9], "other_accuracy": [0.4, 1.0]}
    heart = {"session": 3, "suspects": 40, "memorised": 0.9, "memorised_from": 20, "others_learned": 9, **learned}
    probes = {"epochs": {"sessions": [one(3)]}, "memorization": {"sessions": [heart]}}
    assert epoch_remarks(probes) == [
        "Session 3: best at epoch 7 of 60; the rest cost 1.6 points on validation images. 7 epochs would do.",
        "Session 3: 40 labels that looked wrong before training (on clean data: hard pictures) were learned by heart: half of them not "
        "before epoch 21, when nine tenths of the others were learned by epoch 10. hf-cl data shows such labels.",
    ]
    good = [one(0, epochs_wasted=0, best_epoch=59), one(1, relative_degradation=0.01), one(2, best_epoch=None)]
    fine = {"epochs": {"sessions": good}, "memorization": {"sessions": [{**heart, "session": 0}]}}
    assert epoch_remarks(fine) == ["No session was trained too long: validation losses were lowest, or nearly, at the end."]
    assert len(epoch_remarks({"epochs": {"sessions": [one(t) for t in range(30)]}})) == 6
    for hard in (
        {"memorised": 0.7},
        {"memorised_from": 9},
        {"others_learned": None},
        {"memorised": None, "memorised_from": None, "suspects": 0},
    ):
        values = {**probes, "memorization": {"sessions": [{**heart, **hard}]}}
        assert len(epoch_remarks(values)) == 1, hard
    assert epoch_remarks({}) == []
    charts = epoch_charts(probes)
    assert [chart.x for chart in charts] == [[7, 60], [7, 60], [1, 60]] and epoch_charts({}) == []
    assert charts[1].lines[0].values == [pytest.approx(48.9), pytest.approx(47.3)]
    others, wrong = charts[2].lines
    assert (others.name, wrong.name) == ("session 3, others", "session 3, looked wrong")
    assert look(others.style).split()[0] == look(wrong.style).split()[0] and others.style != wrong.style, "one colour a session"
    for strange in ({"sessions": 5}, {"sessions": [{"session": 0}]}, {"sessions": [1]}, {}):  # a probe of one's own of that name
        assert epoch_remarks({"epochs": strange, "memorization": strange}) == epoch_charts({"epochs": strange}) == []


# Mechanism
class Net(Head):
    """A head with a hidden layer: enough to learn any labels by heart."""

    def __init__(self, width, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, classes))

    def forward(self, features):
        return self.layers(features)


class Rows:
    """Features as a data set."""

    def __init__(self, features, labels):
        self.features, self.labels, self.indices = features, labels.tolist(), [7 * i for i in range(len(labels))]

    def __len__(self):
        return len(self.labels)


def trained(seed, *, flipped, decay=0.0, epochs=40):
    """(reports by probe, which labels are flipped, test accuracy by epoch) of a small net on Gaussian features."""
    rng, classes, width = np.random.default_rng(seed), 10, 40
    means = rng.normal(size=(classes, width)) * 0.42

    def draw(count):
        labels = np.arange(count) % classes
        return torch.tensor(means[labels] + rng.normal(size=(count, width)), dtype=torch.float32), torch.from_numpy(labels)

    (x, y), (held, held_y), (test, test_y) = draw(400), draw(400), draw(1000)
    wrong = torch.from_numpy(rng.random(len(y)) < flipped)
    given = torch.where(wrong, (y + torch.from_numpy(rng.integers(1, classes, len(y)))) % classes, y)
    names = tuple(f"class {i}" for i in range(classes))
    session = Session(0, names, names, train=Rows(x, given), tests=(), validation=Rows(held, held_y))
    torch.manual_seed(seed)
    net = Net(width, classes)

    def features_of(data, role=None):
        whole = data.data.features[list(data.positions)] if hasattr(data, "positions") else data.features
        return FeatureSet(whole, torch.tensor(data.labels), torch.tensor(data.indices))

    accelerator = SimpleNamespace(autocast=nullcontext)
    trainer = SimpleNamespace(
        features_of=features_of,
        head=net,
        accelerator=accelerator,
        named_parameters=[],
        session=session,
        validation_of=lambda s: s.validation,
    )
    probes = [EpochProbe(), MemorizationProbe()]
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=decay)
    for probe in probes:
        probe.begin_session(trainer, session)
    accuracy = []
    for epoch in range(epochs):
        for probe in probes:
            probe.begin_epoch(trainer, epoch)
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), given[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy.append(float((net(test).argmax(1) == test_y).float().mean()))
    for probe in probes:
        probe.end_session(trainer, session)
    return {probe.name: probe.report() for probe in probes}, wrong, accuracy


@pytest.mark.parametrize("seed", range(5))
def test_flipped_labels_are_learned_last_and_by_heart(seed):
    reports, wrong, accuracy = trained(seed, flipped=0.2)
    (epochs,), (memory,) = reports["epochs"]["sessions"], reports["memorization"]["sessions"]
    first = next(epoch for epoch, value in zip(memory["measured"], memory["other_accuracy"], strict=True) if value >= 0.9)
    assert memory["memorised_from"] > first and memory["memorised"] > 0.95
    assert accuracy[epochs["best_epoch"]] > accuracy[-1] + 0.02, "what validation images choose is better on test images too"
    assert epochs["measured"] == [*range(40)] and epochs["epochs_wasted"] == 39 - epochs["best_epoch"] > 20
    found = {index for index, *_ in memory["images"]}
    assert np.mean([7 * i in found for i in wrong.nonzero()[:, 0].tolist()]) > 0.9
    assert memory["suspects"] == len(found)
    said = " ".join(epoch_remarks(reports))
    assert "best at epoch" in said and "learned by heart" in said


def test_clean_labels_under_strong_decay_are_not_called_learned_by_heart():
    reports, _, _ = trained(0, flipped=0.0, decay=10.0, epochs=20)
    assert not any("by heart" in sentence for sentence in epoch_remarks(reports))


def test_looks_are_as_rare_as_asked_for_and_the_last_is_never_missed():
    probe, session = EpochProbe(every=3), Session(0, ("a", "b"), ("a", "b"), train=Rows(torch.zeros(2, 4), torch.tensor([0, 1])), tests=())
    session = replace(session, validation=session.train)
    data = FeatureSet(torch.zeros(2, 4), torch.tensor([0, 1]), torch.tensor([0, 1]))
    trainer = SimpleNamespace(
        features_of=lambda data_set: data,
        head=Net(4, 2),
        accelerator=SimpleNamespace(autocast=nullcontext),
        session=session,
        validation_of=lambda s: s.validation,
    )
    probe.begin_session(trainer, session)
    for epoch in (0, 1, 2, 3, 4, 0, 1):  # two phases
        probe.begin_epoch(trainer, epoch)
    probe.end_session(trainer, session)
    (trace,) = probe.report()["sessions"]
    assert trace["measured"] == [2, 5, 6] and trace["epochs"] == 7
    probe.begin_session(trainer, session)
    probe.end_session(trainer, session)
    assert probe.report()["best_epoch"] is None, "a session without an epoch has nothing to say"


# In a run
class HeldOut(Stream):
    def __iter__(self):
        for session in super().__iter__():
            labels = np.repeat(np.unique(session.train.labels), 3)
            yield replace(session, validation=Images(labels, first_index=9000 + 100 * session.id))


class BreakAt(Probe):
    name = "break"

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.position.step == self.step:
            raise InterruptedError


def watched(folder, *, probes=None, own=(), head="linear", **settings):
    trainer = build(folder, sessions=2, head=head, probes=probes or {}, **settings)
    made = (trainer.backbone, trainer.processor, trainer.method, HeldOut(2), trainer.settings)
    return type(trainer)(*made, probes=list(own), quiet=True)


BOTH = {"epochs": {"images": 5}, "memorization": {}}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    watched(folder).fit()
    return folder


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beside")
    return folder, watched(folder, probes=BOTH).fit()


def test_weights_are_equal_to_the_bit(alone, beside):
    assert digest(beside[0]) == digest(alone)


def test_the_report_has_both_and_goes_to_results_and_log(beside):
    folder, results = beside
    epochs, memory = results.probes["epochs"]["sessions"], results.probes["memorization"]["sessions"]
    assert [trace["measured"] for trace in epochs] == [[0, 1, 2], [0, 1, 2]], "two epochs of one phase and one of the other"
    assert all(len(trace["validation_loss"]) == 3 and 0 <= trace["validation_accuracy"][-1] <= 1 for trace in epochs)
    assert [trace["epochs"] for trace in memory] == [3, 3]
    assert "epochs.accuracy_lost" in results.probe_numbers
    assert json.loads((folder / "results.json").read_text())["probes"]["epochs"]["best_epoch"] == results.probes["epochs"]["best_epoch"]


@pytest.mark.parametrize("step", [4, 7])
def test_a_run_that_is_stopped_inside_a_session_goes_on(beside, tmp_path, step):
    """Between epochs and inside one."""
    with pytest.raises(InterruptedError):
        watched(tmp_path, probes=BOTH, own=[BreakAt(step)], checkpoint_steps=1).fit()
    results = watched(tmp_path, probes=BOTH, own=[BreakAt(0)], checkpoint_steps=1, resume="auto").fit()
    assert results.probes == beside[1].probes and digest(tmp_path) == digest(beside[0])


# What they cannot do
def test_a_run_without_validation_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--validation_fraction 0\.1 holds some out"):
        check_settings(RunSettings(output_dir=str(tmp_path / "run"), probes={"epochs": {}}))
    check_settings(RunSettings(output_dir=str(tmp_path / "run"), probes={"epochs": {}}, validation_fraction=0.1))
    session = Session(3, ("a",), ("a",), train=Rows(torch.zeros(1, 2), torch.tensor([0])), tests=())
    with pytest.raises(ValueError, match="session 3 has none: --validation_fraction"):
        EpochProbe().begin_session(SimpleNamespace(validation_of=lambda s: None), session)


def test_one_shot_says_nothing_of_labels():
    names = ("ant", "bee")
    session = Session(0, names, names, train=Rows(torch.zeros(3, 2), torch.tensor([0, 0, 1])), tests=())
    with pytest.raises(ValueError, match="'bee' has one image in session 0; it needs two shots"):
        MemorizationProbe().begin_session(SimpleNamespace(), session)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"epochs": {"every": 0}}, "at least 1"),
        ({"memorization": {"images": 0}}, "at least 1"),
    ],
)
def test_settings_that_are_none_are_refused(spec, said):
    with pytest.raises(ValueError, match=said):
        build_probes(spec)
