"""The temperature of a run: found on images that the head has not seen, kept by checkpoints, said in results and card."""

from __future__ import annotations

import json
from dataclasses import replace

import fitted_heads
import numpy as np
import pytest
import torch
from loop_case import backbone, processor
from peft import PeftModel
from stream import Images, Stream
from test_kept_features import images_through

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import LossTerm
from hf_cl.heads import CosineHead, build_head
from hf_cl.heads.held_back import held_back
from hf_cl.methods import frozen, linear_probe, nearest_class_mean
from hf_cl.results.remarks import remarks
from hf_cl.training.calibration import TEMPERATURES, Calibration, _of_a_trial, best, losses


class HeldOut(Stream):
    """With three validation images a class."""

    def __iter__(self):
        for session in super().__iter__():
            held = Images(np.repeat((2 * session.id, 2 * session.id + 1), 3), first_index=1000 * session.id + 700)
            yield replace(session, validation=held)


def run(folder, method, stream=None, **settings):
    values = {"batch_size": 8, "eval_batch_size": 8, "cpu": True, "augmentation": "none", **settings}
    made = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(0.0), processor(), method, stream or Stream(3, train=15), made, quiet=True)


# The number
def test_the_loss_at_each_temperature_is_the_cross_entropy():
    head, labels = build_head({"type": "linear"}, 4, 3), torch.tensor([0, 2, 1, 1])
    logits = 3 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for at, t in ((60, 1.0), (80, 10.0), (40, 0.1)):
        assert TEMPERATURES[at] == pytest.approx(t)
        assert float(losses(head, logits, labels)[0, at]) == pytest.approx(
            float(torch.nn.functional.cross_entropy(logits / t, labels, reduction="sum")), rel=1e-9
        )
    assert losses(head, 1e6 * logits, labels).isfinite().all()


@pytest.mark.parametrize("factor", [0.05, 1.0, 8.0])
def test_a_head_that_is_too_sure_or_not_sure_enough_is_found_out(factor):
    generator = torch.Generator().manual_seed(1)
    honest = 2 * torch.randn(4000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    found = TEMPERATURES[losses(CosineHead(3, 5), factor * honest, labels)[0].argmin()]
    assert float(found) == pytest.approx(factor, rel=0.13)  # a step of the grid is 12 %


def test_a_few_images_that_are_all_named_rightly_make_no_head_sure_without_end():
    logits, labels = 4 * torch.eye(3, dtype=torch.float64).repeat(4, 1), torch.arange(3).repeat(4)
    found = losses(CosineHead(3, 3), logits, labels)
    assert found[0].argmin() == 0  # what the likelihood alone says
    sure = (logits / best(found, 12)).softmax(1).amax()
    assert 0.9 < sure < 0.98
    many = losses(CosineHead(3, 3), logits.repeat(100, 1), labels.repeat(100))
    assert (logits / best(many, 1200)).softmax(1).amax() > 0.995


def test_a_head_with_another_normalisation_is_judged_by_it():
    head = build_head({"type": "linear", "probability": "stablemax"}, 4, 2)
    logits = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    want = -head.probabilities(logits / TEMPERATURES[70])[0, 0].log()
    assert float(losses(head, logits, torch.tensor([0]))[0, 70]) == pytest.approx(float(want))


@pytest.mark.parametrize("spec", [{"type": "prototype"}, {"type": "ridge"}, {"type": "ridge", "feature_map": "relu", "map_dim": 8}])
def test_a_trial_is_the_head_that_never_saw_what_it_judges(spec):
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(80) % 4
    features = torch.randn(80, 6, generator=generator) + 2 * torch.randn(4, 6, generator=generator)[labels]
    first, second = fitted_heads.split_by_class(features, labels, [2, 2])
    head = build_head(spec, 6, 0)
    trainer = fitted_heads.run(head, [first])
    head.grow(["2", "3"])
    calibration = Calibration()
    calibration.begin(head)
    session = fitted_heads.session_of(1, list("0123"), 2, *second)
    head.end_session(trainer, session)
    logits, judged = _of_a_trial(calibration._trial, trainer, session)
    held = held_back(second[1], torch.arange(40) + 1000, 0, 1)
    assert held.sum() == 8 and torch.equal(judged, second[1][held])
    other = build_head(spec, 6, 0)
    fitted_heads.run(other, [first, (second[0][~held], second[1][~held])])
    assert torch.equal(logits.float(), other.eval()(second[0][held]))
    assert trainer.statistics.count(3) == 20  # the run's own statistics know all images


# The run
@pytest.fixture(scope="module")
def prototypes(tmp_path_factory):
    trainer = run(tmp_path_factory.mktemp("prototypes"), nearest_class_mean())
    seen = images_through(trainer)
    return trainer, trainer.fit(), sum(seen)


def test_class_means_are_calibrated_and_name_the_same_classes(prototypes):
    trainer, results, seen = prototypes
    found = [session.temperature for session in results.sessions]
    assert all(t in [pytest.approx(float(x)) for x in TEMPERATURES] for t in found) and found[-1] == trainer.config.temperature != 1
    assert seen == 3 * (30 + 8)  # no picture goes through the backbone for it
    head = trainer.head
    features = torch.randn(50, head.in_features)
    wrapper = trainer.tuner.head_wrapper()
    assert torch.equal(wrapper.eval()(features), head(features) / found[-1])
    assert torch.equal(wrapper(features).argmax(1), head(features).argmax(1))


def test_the_report_and_the_adapter_of_each_session_have_the_same_number(prototypes):
    trainer, results, _ = prototypes
    for session in results.sessions:
        config = json.loads((trainer.folder / "adapters" / f"session-{session.id}" / "adapter_config.json").read_text())
        assert config["temperature"] == session.temperature
    assert any(f"logits are divided by {results.sessions[-1].temperature:.3g}" in sentence for sentence in remarks(results))
    last = trainer.folder / "adapters" / "session-2"
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    again = PeftModel.from_pretrained(backbone(0.0), str(last)).eval()
    with torch.no_grad():
        assert torch.equal(again(pixel_values=pixels).logits, trainer.model.eval()(pixel_values=pixels).logits)


def test_what_is_measured_is_what_a_reader_gets(prototypes):
    """The bins of the last evaluation are those of the loaded model's probabilities."""
    trainer, results, _ = prototypes
    confidences, right = [], 0
    for test in trainer.session.tests:
        for batch in trainer.images.test_batches([test.data]):
            with torch.no_grad():
                scores = trainer.model.eval()(pixel_values=batch.values["pixel_values"]).logits.softmax(1)
            confidences += scores.amax(1).tolist()
            right += int((scores.argmax(1) == batch.values["labels"]).sum())
    bins = results.calibration[-1]
    assert sum(bins.billionths) / 1e9 == pytest.approx(sum(confidences), rel=1e-5) and sum(bins.correct) == right


def test_no_accuracy_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(Calibration, "end", lambda *args: None)
    plain = run(tmp_path, nearest_class_mean()).fit()
    monkeypatch.undo()
    calibrated = run(tmp_path / "calibrated", nearest_class_mean()).fit()
    assert plain.accuracy_matrix == calibrated.accuracy_matrix and plain.sessions[-1].temperature is None
    assert calibrated.sessions[-1].temperature is not None


def test_a_head_with_a_temperature_of_its_own_is_left_alone(tmp_path):
    trainer = run(tmp_path, frozen())
    results = trainer.fit()
    assert trainer.config.temperature is None and results.sessions[-1].temperature == float(trainer.head.temperature)


def test_a_head_that_trains_needs_validation_images(tmp_path):
    results = run(tmp_path / "none", linear_probe(epochs=2)).fit()
    assert [session.temperature for session in results.sessions] == [None] * 3
    assert any("Probabilities are not calibrated: nothing was held out" in sentence for sentence in remarks(results))
    trainer = run(tmp_path / "some", linear_probe(epochs=2), HeldOut(3, train=15))
    calibrated = trainer.fit()
    assert calibrated.sessions[-1].temperature == trainer.config.temperature and trainer.calibration.images == 18
    assert calibrated.accuracy_matrix == results.accuracy_matrix


def test_what_a_loss_distils_from_is_not_divided(tmp_path):
    """In training nothing is: frozen states answer as they were trained."""
    temperatures = []

    class Watches(LossTerm):
        name = "watches"

        def __call__(self, ctx):
            temperatures.append(trainer.config.temperature)
            return ctx.logits.sum() * 0.0

    method = linear_probe(epochs=1)
    phases = method.phases
    method = replace(method, phases=lambda session: [replace(phase, losses=[*phase.losses, Watches()]) for phase in phases(session)])
    trainer = run(tmp_path, method, HeldOut(2))
    trainer.fit()
    assert temperatures and set(temperatures) == {None} and trainer.config.temperature is not None
