"""Distillation of several models: the reference's loss and gradient, one look per image, the same bits after a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loop_case import backbone, digest, processor
from losses.fakes import Labels, session_of
from losses.test_losses_in_a_run import StopAt
from stream import Stream
from torch.nn import functional as F

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Context, Outputs
from hf_cl.errors import TrainingInterruptedError
from hf_cl.losses import EnsembleDistillation, Teacher
from hf_cl.losses.ensemble_distillation import distillation, softened
from hf_cl.methods import compose
from hf_cl.run.distill import distilled

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "ensemble" / "ensemble.npz")
NUMBERS = {name: torch.from_numpy(np.asarray(values)) for name, values in REFERENCE.items()}
T = float(NUMBERS["temperature"])


def test_loss_and_gradient_are_those_of_the_reference():
    each = NUMBERS["logits"].log_softmax(-1)  # [3, 7, 5]; a teacher's constant is nobody's business
    targets = softened(each, T).mean(0)
    torch.testing.assert_close(targets, NUMBERS["teacher"], atol=1e-12, rtol=0)
    student = NUMBERS["student"].clone().requires_grad_()
    loss = distillation(student, targets, T)
    loss.backward()
    torch.testing.assert_close(loss.detach(), NUMBERS["distillation_loss"], atol=1e-12, rtol=0)
    torch.testing.assert_close(student.grad, NUMBERS["distillation_grad"], atol=1e-12, rtol=0)


def test_what_the_reference_tells_apart():
    want, each, student = NUMBERS["distillation_loss"], NUMBERS["logits"].log_softmax(-1), NUMBERS["student"]
    mistakes = {
        "no T^2": distillation(student, NUMBERS["teacher"], T) / T**2,
        "softened after the mean": distillation(student, softened(each.exp().mean(0).log(), T), T),
        "mean of logits": distillation(student, softened(NUMBERS["logits"].mean(0), T), T),
    }
    for name, value in mistakes.items():
        assert abs(value - want) > 0.04, name


class Judges:
    """Teachers that count how often they are asked; what they say depends on the pixels, and on their number."""

    def __init__(self, count=2, classes=lambda session: 2 + 2 * session):
        self.looks, self.opened, self.classes = [0] * count, [], classes

    def teacher(self, k):
        def open_after(session):
            self.opened.append((k, session))

            def judge(pixels):
                self.looks[k] += len(pixels)
                shades = pixels.flatten(1).double().mean(1, keepdim=True)  # [B, 1]
                return (shades * torch.arange(self.classes(session)) * (k + 1)).log_softmax(-1)

            return judge

        return Teacher(f"digest {k}", open_after)

    def all(self):
        return [self.teacher(k) for k in range(len(self.looks))]


class FakeTrainer:
    def __init__(self, session, pixels):
        self.session, self.pixels = session, pixels
        self.accelerator = SimpleNamespace(device=torch.device("cpu"), autocast=torch.enable_grad, reduce=lambda values, reduction: values)

    def batches_of(self, dataset):
        ids = torch.tensor(dataset.indices)
        return ({"pixel_values": self.pixels[some], "index": ids[some]} for some in torch.arange(len(ids)).split(4))


def test_each_teacher_looks_once_at_each_image_and_not_again_after_a_resume():
    session = replace(session_of(4, 4, range(4)), train=Labels([0, 1, 2, 3, 0, 1]))
    pixels = torch.randn(6, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    judges, later = Judges(classes=lambda session: 4), Judges(classes=lambda session: 4)
    loss, again = EnsembleDistillation(judges.all(), T), EnsembleDistillation(later.all(), T)
    trainer = FakeTrainer(session, pixels)
    loss.begin_session(trainer, session)
    for epoch in range(3):
        loss.begin_epoch(trainer, epoch)
    assert judges.looks == [6, 6] and judges.opened == [(0, 0), (1, 0)]
    index, logits = torch.tensor([5, 2]), torch.randn(2, 4)
    ctx = Context({"labels": index, "index": index}, (Outputs(logits, logits, logits),), session, epoch=0, step=0, frozen=None)
    each = torch.stack([judges.teacher(k).open(0)(pixels) for k in range(2)])
    want = T**2 * F.kl_div((logits / T).log_softmax(-1), softened(each, T).mean(0)[index].float(), reduction="batchmean")
    torch.testing.assert_close(loss(ctx), want)

    again.begin_session(trainer, session)
    again.load_state_dict(loss.state_dict())
    again.begin_epoch(trainer, 1)
    assert torch.equal(again(ctx), loss(ctx)) and later.looks == [0, 0]
    loss.end_session(trainer, session)
    assert loss.state_dict() == {}
    with pytest.raises(RuntimeError, match="no session has begun"):
        loss(ctx)


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="at least one teacher"):
        EnsembleDistillation([])
    with pytest.raises(ValueError, match=r"temperature must be positive, got 0"):
        EnsembleDistillation(Judges().all(), temperature=0)


def student(folder, judges, hard_labels=0.0, probes=(), **settings):
    method = compose(adapter={"type": "lora", "r": 2}, epochs=2, learning_rate=1e-2)
    method = distilled(method, EnsembleDistillation(judges.all()), hard_labels)
    values = {"batch_size": 8, "eval_batch_size": 8, "cpu": True, "logging_steps": 2, **settings}
    trained = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(), processor(), method, Stream(2), trained, probes=probes, quiet=True)


def test_stopped_inside_an_epoch_and_resumed(tmp_path):
    whole = student(tmp_path / "whole", Judges(), 0.5).fit()
    with pytest.raises(TrainingInterruptedError):
        student(tmp_path / "stopped", Judges(), 0.5, probes=[StopAt(5)]).fit()
    other = Judges(3)
    with pytest.raises(ValueError, match="resume with the same method"):  # another teacher
        student(tmp_path / "stopped", other, 0.5, resume="auto").fit()
    judges = Judges()
    results = student(tmp_path / "stopped", judges, 0.5, resume="auto").fit()
    assert {session for _, session in judges.opened} == {1}  # those of session 0 are in the checkpoint
    assert results.accuracy_matrix == whole.accuracy_matrix and digest(tmp_path / "stopped") == digest(tmp_path / "whole")
