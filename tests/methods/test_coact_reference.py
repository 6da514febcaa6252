"""CoACT's composition against the official code's numbers.

Session 0 goes through the method's own losses, optimizer and parts. Of the later sessions, the two objectives are compared at the recorded
points; the official sum of losses, which the package does not have, is written out in `test_the_official_sum`.
"""

from __future__ import annotations

import pytest
import torch
from coact_reference import (
    BASE,
    DECAY,
    ENCODER_FACTOR,
    INCREMENTAL_FACTOR,
    LEARNING_RATE,
    NAMES,
    WAY,
    Student,
    arrays,
    assert_close,
    live,
    session,
    tensors,
)
from torch.nn import functional as F

from hf_cl.contracts import FeatureSet, Session
from hf_cl.losses import supervised_contrastive
from hf_cl.methods.coact import EmaTeacher, coact
from hf_cl.parts import Prototypes


class FakeTrainer:
    """The members of the trainer that CoACT's parts use."""

    def __init__(self, student: Student) -> None:
        self.student, self.tuner, self.head = student, student.tuner, student.head
        self.images, self.labels = None, None

    @torch.no_grad()
    def features_of(self, dataset, *, augment=False):
        return FeatureSet(self.student.classifier(self.images)[0], self.labels, torch.arange(len(self.labels)))


def method(student: Student, **kwargs):
    return coact(
        adapter=student.config,
        epochs=5,
        incremental_epochs=1,
        learning_rate=LEARNING_RATE,
        encoder_lr_factor=ENCODER_FACTOR,
        incremental_lr_factor=INCREMENTAL_FACTOR,
        incremental_train="classifier+lora",
        **kwargs,
    )


def all_classes() -> Session:
    """Session 0 as the official code sees it: rows of all classes from the start."""
    return Session(0, tuple(NAMES), tuple(NAMES), train=None, tests=())


def backward(student: Student, phase, context) -> dict[str, torch.Tensor]:
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(phase.trainable(name))
        parameter.grad = None
    losses = {term.name: term(context) * term.weight_at(0) for term in phase.losses}
    sum(losses.values()).backward()
    return losses


def check_gradients(student: Student, tag: str) -> None:
    expected = tensors(tag)
    rows = student.head.num_classes
    found = {name: p for name, p in student.tuner.model.named_parameters() if p.grad is not None}
    assert found.keys() == {live(name) for name in expected}
    for name, gradient in expected.items():
        assert_close(found[live(name)].grad, gradient[:rows] if name == "classifier.weight" else gradient)


def check_weights(student: Student, tag: str) -> None:
    for name, tensor in tensors(tag).items():
        assert_close(student.parameter(name), tensor)


def test_session_0():
    student = Student(10)
    student.load(tensors("init"))
    made = method(student)
    lora, unfrozen = made.phases(all_classes())
    assert (lora.epochs, unfrozen.epochs) == (1, 4)
    optimizer, schedule = made.optimizer(all_classes(), student.named_parameters())
    torch.testing.assert_close(torch.tensor([list(schedule(epoch, 0)) for epoch in range(5)]).double(), arrays()["lr_schedule"])
    for group, rate in zip(optimizer.param_groups, schedule(0, 0), strict=True):  # both recorded steps are of the first rate
        group["lr"] = rate
    part, trainer = EmaTeacher("fixed", clone=False), FakeTrainer(student)
    part.begin_session(trainer, all_classes())
    for phase, prefix, gradients, weights in ((lora, "base_", "grad_step1", "step1"), (unfrozen, "base2_", "grad_step2", "step2")):
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(phase.trainable(name))
        part.begin_epoch(trainer, 0)
        assert student.config.unfrozen == (phase is unfrozen)
        context = student.context("", all_classes())
        assert_close(context.logits, arrays()[f"{prefix}logits"])
        assert_close(F.normalize(context.embedding), arrays()[f"{prefix}emb_q"][:, 0])
        assert_close(F.normalize(context.frozen("teacher").embedding), arrays()[f"{prefix}emb_k"][:, 0])
        losses = backward(student, phase, context)
        assert_close(losses["cross_entropy"], arrays()[f"{prefix}ce_loss"])
        assert_close(losses["supervised_contrastive"], arrays()[f"{prefix}moco_loss"])
        check_gradients(student, gradients)
        optimizer.step()
        part.after_step(trainer)
        check_weights(student, weights)
    teacher = student.tuner.role_tensors("teacher")
    for name, tensor in tensors("teacher").items():
        assert_close(teacher[live(name)], tensor, 1e-6)


def at_the_end_of_session_0(num_classes: int = BASE) -> Student:
    student = Student(num_classes)
    student.tuner.unfreeze()
    student.load(tensors("step2"))
    student.load_teacher(tensors("teacher"))
    return student


def begin(student: Student, number: int, tag: str) -> None:
    """Grow the head and write the prototypes of a later session."""
    student.tuner.grow("default", NAMES[student.head.num_classes : BASE + WAY * number])
    trainer = FakeTrainer(student)
    trainer.images, trainer.labels = arrays()[f"{tag}images_q"], arrays()[f"{tag}labels"]
    Prototypes(base_session=True).begin_session(trainer, session(number))


@pytest.mark.parametrize("objective", ["fixed", "figure"])
@pytest.mark.parametrize(("number", "tag", "recorded"), [(1, "inc_", "var"), (2, "inc2_", "var2")])
def test_objectives_of_later_sessions(objective, number, tag, recorded):
    student = at_the_end_of_session_0()
    part, trainer = EmaTeacher(objective, clone=False), FakeTrainer(student)
    part.begin_session(trainer, session(0))
    part.end_session(trainer, session(0))
    if number == 2:
        student.tuner.grow("default", NAMES[BASE : BASE + WAY])
        student.load(tensors("session1"))
    begin(student, number, tag)
    after = arrays()["proto_weight_after" if number == 1 else "inc2_weight_after_proto"]
    assert_close(student.head.weight, after[: student.head.num_classes])

    # the recorded embeddings of the two teachers, whose drift is the official code's
    given = {"base_teacher": arrays()[f"{tag}emb_k_base"][:, 0], "teacher": arrays()[f"{recorded}_emb_teacher"][:, 0]}
    context = student.context(tag, session(number), given)
    (phase,) = method(student, objective=objective).phases(session(number))
    losses = backward(student, phase, context)
    assert_close(losses["cross_entropy"], arrays()[f"{recorded}_ce_seen"])
    if objective == "fixed":
        assert_close(F.normalize(context.frozen("pretrained").embedding), arrays()[f"{tag}emb_k_pre"][:, 0])
        assert_close(losses["supervised_contrastive"], arrays()[f"{tag}moco_loss"])
        assert_close(losses["consistency"], arrays()[f"{recorded}_consistency_base_cols"])
    else:
        assert_close(F.normalize(context.frozen("base").embedding), arrays()[f"{recorded}_emb_base_student"][:, 0])
        assert_close(losses["base_contrast"], arrays()[f"{recorded}_bcl"])
        assert_close(losses["asynchronous_contrast"], arrays()[f"{recorded}_acl"])
    assert_close(sum(losses.values()), arrays()[f"{recorded}_{objective}_loss"])
    check_gradients(student, f"grad_session{number}_{objective}")


def test_the_official_sum():
    """Sessions 1 and 2 as the official code trains them, defects included, from public pieces.

    It computes cross-entropy and the squared error over rows of all classes, seen or not; its "frozen" base teacher drifts towards the base
    student at every forward; and one SGD with its momentum serves all later sessions.
    """
    student = at_the_end_of_session_0(10)
    tuner, head = student.tuner, student.head
    tuner.keep("base", "base_teacher", clone=True)
    base, base_teacher = tuner.role_tensors("base"), tuner.role_tensors("base_teacher")
    (phase,) = method(student).phases(session(1))
    sgd, _ = method(student).optimizer(session(1), student.named_parameters())
    for group in sgd.param_groups:
        group["lr"] = LEARNING_RATE * INCREMENTAL_FACTOR
    for number, tag, steps in ((1, "inc_", 1), (2, "inc2_", 3)):
        trainer = FakeTrainer(student)
        trainer.images, trainer.labels = arrays()[f"{tag}images_q"], arrays()[f"{tag}labels"]
        Prototypes(base_session=True).begin_session(trainer, session(number))
        assert_close(head.weight, arrays()["proto_weight_after" if number == 1 else "inc2_weight_after_proto"])
        for step in range(steps):
            for name, average in base_teacher.items():
                average.lerp_(base[name], 1 - DECAY)
            for name, parameter in student.named_parameters():
                parameter.requires_grad_(phase.trainable(name))
            context = student.context(tag, session(number))
            keys = [context.frozen(role).embedding for role in ("base_teacher", "pretrained")]
            assert_close(F.normalize(keys[0]), arrays()[f"{tag}emb_k_base"][:, 0]) if step == 0 else None
            contrast = supervised_contrastive([context.embedding, *keys], context.labels)
            entropy = F.cross_entropy(context.logits, context.labels)
            consistency = F.mse_loss(context.logits, context.frozen("base", view=0).logits)
            found = torch.stack([contrast, entropy, consistency])
            if number == 1:
                recorded = torch.stack([arrays()[f"inc_{name}_loss"] for name in ("moco", "ce", "consistency")])
            else:
                recorded = arrays()["inc2_losses"][step, :3]
            assert_close(found, recorded)
            sgd.zero_grad()
            found.sum().backward()
            if number == 1:
                check_gradients(student, "grad_session1_official")
            sgd.step()
        check_weights(student, f"session{number}")
    assert_close(student.classifier(arrays()["images_q"])[1], arrays()["inc2_eval_logits"])
