"""ASYNC_LORA against the official code's numbers: features, the unfrozen set, the moving average."""

from __future__ import annotations

import pytest
import torch
from coact_reference import Student, arrays, assert_close, live, tensors, trainable_after_unfreezing


@pytest.fixture
def student() -> Student:
    """The initial state, with rows of all classes as the official code allocates them."""
    made = Student(10)
    made.load(tensors("init"))
    return made


def test_features_and_logits(student):
    _, logits, embedding, _ = student.classifier(arrays()["images_q"])
    assert_close(embedding, arrays()["eval_q_pooled"])
    assert_close(logits, arrays()["eval_q_logits"])


@pytest.mark.parametrize("role", ["teacher", "pretrained"])
def test_before_any_unfreezing_the_teacher_is_the_pretrained_model(student, role):
    assert_close(student.frozen.run(role, arrays()["images_q"]).embedding, arrays()["eval_base_pooled"])


def test_unfreezing_takes_the_official_tensors(student):
    student.tuner.unfreeze()
    found = {name for name, parameter in student.tuner.model.named_parameters() if parameter.requires_grad}
    assert found == {live(name) for name in trainable_after_unfreezing()}


def test_moving_average(student):
    """Three updates with m = 0.9 from large differences: here a forgotten update would show."""
    student.config.ema_decay = 0.9
    student.tuner.unfreeze()
    student.load(tensors("init") | tensors("ema_student"))
    student.load_teacher(tensors("ema_teacher"))
    for _ in range(3):
        student.tuner.update_teacher()
    teacher = student.tuner.role_tensors("teacher")
    expected = tensors("ema_teacher_after3")
    assert teacher.keys() == {live(name) for name in expected}
    for name, tensor in expected.items():
        assert_close(teacher[live(name)], tensor, 1e-6)


@torch.no_grad()
def test_embeddings_of_student_and_teacher_after_the_average(student):
    student.tuner.unfreeze()
    student.load(tensors("session2") | tensors("ema_student"))
    student.load_teacher(tensors("ema_teacher_after3"))
    images = arrays()["images_q"]
    assert_close(student.classifier(images)[2], arrays()["ema_student_pooled"])
    assert_close(student.frozen.run("teacher", images).embedding, arrays()["ema_teacher_pooled"])
