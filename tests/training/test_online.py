"""Ordered sessions: images as they stand, once; classes that have not come rest; probes along the way; killed and resumed to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loop_case import digest
from memory_case import StopAt
from online_case import Online, build

from hf_cl.contracts import Part
from hf_cl.methods import compose, lora, ovor
from hf_cl.methods.with_memory import with_memory
from hf_cl.probes import AnytimeAccuracy, Prequential


class Watch(Part):
    """Sample ids, exposed classes and the head's rows after each step."""

    def __init__(self):
        self.steps = []

    def begin_session(self, trainer, session):
        self.rows = [trainer.head.weight.detach().clone()]
        self.begin = self.rows[0]

    def after_step(self, trainer):
        (ctx,) = trainer.contexts
        moved = (trainer.head.weight.detach() != self.begin).any(1).tolist()
        self.steps.append((ctx.session.id, ctx.batch["index"].tolist(), ctx.exposed, trainer.exposed, moved))


def test_images_come_as_they_stand_and_classes_that_have_not_come_rest(tmp_path):
    watch = Watch()
    build(tmp_path, parts=[watch]).fit()
    for session in (0, 1):
        steps = [step[1:] for step in watch.steps if step[0] == session]
        assert [i for ids, *_ in steps for i in ids] == list(range(1000 * session, 1000 * session + 20))
        assert [come for _, come, _, _ in steps] == ([1, 1, 1, 2, 2] if session == 0 else [3, 3, 3, 4, 4])
        for _, come, seen, moved in steps:
            assert seen == come and not any(moved[come:])  # to the bit, until the class comes
        assert any(steps[-1][3][-1:])


def test_probes_along_the_stream(tmp_path):
    """Evaluations after 12, 20 and 32 images (thresholds 8, 16, 24: the first batch beyond), and every image tested before it trains."""
    anytime, tested = AnytimeAccuracy(every_images=8), Prequential()

    class Count(Part):
        def __init__(self):
            self.right, self.sessions = 0, []

        def after_step(self, trainer):
            (ctx,) = trainer.contexts
            scores = ctx.logits.clone()
            scores[:, ctx.exposed :] = -torch.inf
            self.right += int((scores.argmax(1) == ctx.labels).sum())

        def end_session(self, trainer, session):
            self.sessions.append(self.right)
            self.right = 0

    count = Count()
    results = build(tmp_path, probes=[anytime, tested], parts=[count]).fit()
    report = results.probes["anytime_accuracy"]
    assert report["images"] == [12, 20, 28, 36] and report["mean"] == pytest.approx(np.mean(report["accuracies"]))
    assert report["accuracies"][0] == 1.0  # one class has come
    said = results.probes["prequential"]
    assert said["sessions"] == [right / 20 for right in count.sessions] and said["accuracy"] == sum(count.sessions) / 40


def test_stopped_inside_an_ordered_session_it_goes_on_to_the_bit(tmp_path):
    def run(folder, *more):
        probes = [AnytimeAccuracy(every_images=8), Prequential(), *more]
        memory = with_memory(compose(adapter={"type": "lora", "r": 4}, epochs=1), {"type": "exemplars", "per_class": 2, "replay": 2})
        return build(tmp_path / folder, memory, probes, checkpoint_steps=1, resume="auto").fit()

    whole = run("whole")
    with pytest.raises(RuntimeError, match="stopped"):
        run("cut", StopAt(8))
    again = run("cut")
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert again.probes == whole.probes and again.sessions == whole.sessions


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lora(epochs=2, loss_scope="seen"), r"each image of which is trained on once, and phase 'train' has 2 epochs. Say --epochs 1"),
        (ovor(epochs=1, vor_epochs=1, loss_scope="seen"), r"has 2 phases \(train, vor\); it must have one"),
        (lora(epochs=1), "is over the session's own classes, and session 1 has images of 'class 0'"),
        (with_memory(compose(epochs=1), {"type": "exemplars", "per_class": 1}), "no exemplars can be shuffled: draw them beside it"),
    ],
    ids=["epochs", "phases", "scope", "memory"],
)
def test_what_is_no_single_pass_is_refused(method, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, method).fit()


def test_prequential_needs_a_stream_in_which_each_image_comes_once(tmp_path):
    with pytest.raises(ValueError, match=r"protocol si_blurry, or class_incremental with --protocol_options '\{online: true\}'"):
        build(tmp_path, probes=[Prequential()], stream=Online(ordered=False)).fit()
