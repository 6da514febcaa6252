"""What a method is made of, and what a run may not resume with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from loop_case import build
from stream import Images, Stream

from hf_cl.contracts import LossTerm, Probe
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods import lora, ovor
from hf_cl.results.composition import changed, composition
from hf_cl.results.results import Results
from hf_cl.rules import Plain
from hf_cl.training.checks import check_parts
from hf_cl.training.session_plan import SessionPlan


def composed(method, stream):
    return composition(method, [[phase for phase in method.phases(session) if phase.epochs] for session in stream])


def test_a_composition_says_adapter_rule_and_losses_of_the_phases():
    found = composed(ovor(epochs=2, vor_epochs=1, learning_rate=1e-2), Stream(3))
    assert found["name"] == "ovor" and found["adapter"]["type"] == "ONE_PROMPT" and found["rule"] == {"type": "Plain"}
    first = found["phases"]["from session 0"]
    assert [phase["epochs"] for phase in first] == [2, 1] and found["sessions"] == 3
    assert first[1]["losses"]["virtual_outliers"]["type"] == "VirtualOutliers"


def test_the_same_method_is_the_same_and_later_sessions_are_no_change():
    before = composed(ovor(epochs=2), Stream(1))
    assert changed(before, composed(ovor(epochs=2), Stream(3))) is None
    where, old, new = changed(before, composed(ovor(epochs=3), Stream(3)))
    assert where.endswith(".epochs") and (old, new) == (2, 3)


@pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path` was renamed")  # the test's base has no name
def test_a_method_that_has_trained_resumes_its_own_run(tmp_path):
    trainer = build(tmp_path, sessions=1)
    trainer.fit()
    again = build(tmp_path, sessions=2, resume="auto")
    again = type(again)(again.backbone, again.processor, trainer.method, Stream(2), again.settings)  # as a notebook's cell run again
    assert len(again.fit().sessions) == 2


def with_losses(trainer, losses):
    phases = trainer.method.phases
    trainer.method = replace(trainer.method, phases=lambda session: [replace(phase, losses=losses) for phase in phases(session)[:2]])
    return trainer


class Smooth(MaskedCrossEntropy):
    name = "smooth"

    def __init__(self, smoothing: float) -> None:
        super().__init__()
        self.smoothing = smoothing


def test_another_loss_or_other_numbers_of_a_loss_do_not_resume(tmp_path):
    with_losses(build(tmp_path, sessions=1), [Smooth(0.1)]).fit()
    with pytest.raises(ValueError, match=r"losses\.smooth\.smoothing = 0\.1, this one has 0\.9: resume with the same method"):
        with_losses(build(tmp_path, sessions=2, resume="auto"), [Smooth(0.9)]).fit()
    with pytest.raises(ValueError, match=r"losses\.smooth = .*this one has None"):
        with_losses(build(tmp_path, sessions=2, resume="auto"), [MaskedCrossEntropy()]).fit()
    with_losses(build(tmp_path, sessions=2, resume="auto"), [Smooth(0.1)]).fit()


class Counter(Probe):
    name = "counter"

    def state_dict(self):
        return {"count": 1}


def test_a_probe_with_state_does_not_join_in_the_middle(tmp_path):
    with pytest.raises(BaseException):  # noqa: B017 (the loop is stopped from outside, after a checkpoint)
        trainer = build(tmp_path, sessions=1, checkpoint_steps=2)
        trainer.probes.append(_Stop())
        trainer.fit()
    trainer = build(tmp_path, sessions=1, checkpoint_steps=2, resume="auto")
    trainer.probes.append(Counter())
    with pytest.raises(ValueError, match=r"only this run has probes\.counter"):
        trainer.fit()


class _Stop(Probe):
    name = "stop"

    def __init__(self, at=3):
        self.at = at

    def after_step(self, trainer):
        if trainer.position.step == self.at:
            raise KeyboardInterrupt


class Returns(LossTerm):
    name = "mine"

    def __init__(self, make):
        self._make = make

    def __call__(self, ctx):
        return self._make(ctx)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda ctx: ctx.logits.logsumexp(-1), r"Loss 'mine' returned a tensor of shape \[8\]"),
        (lambda ctx: ctx.logits.mean().reshape(1), r"a tensor of shape \[1\]"),
        (lambda ctx: 0.5, "a float"),
        (lambda ctx: None, "a NoneType"),
    ],
)
def test_a_loss_that_is_no_mean_is_named_at_the_first_step(tmp_path, make, message):
    with pytest.raises(ValueError, match=message):
        with_losses(build(tmp_path, sessions=1), [Returns(make)]).fit()


def test_a_loss_without_gradient_is_told_of_once(tmp_path, caplog):
    with_losses(build(tmp_path, sessions=1), [MaskedCrossEntropy(), Returns(lambda ctx: ctx.logits.detach().mean())]).fit()
    said = [record.getMessage() for record in caplog.records if "has no gradient" in record.getMessage()]
    assert said and said[0].startswith("Loss 'mine' of phase 'train' has no gradient") and len(said) == len(set(said))


def nameless():
    class Nameless(LossTerm):
        pass

    return Nameless()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (MaskedCrossEntropy(), "losses must be a list"),
        ([MaskedCrossEntropy], "the class MaskedCrossEntropy, not an object of it"),
        ([lambda ctx: ctx.logits.mean()], "a function"),
        ([nameless()], "Nameless has no name"),
    ],
)
def test_what_is_no_loss_is_refused_as_the_trainer_is_built(tmp_path, losses, message):
    method = with_losses(build(tmp_path), losses).method
    trainer = build(tmp_path)
    with pytest.raises(ValueError, match=message):
        type(trainer)(trainer.backbone, trainer.processor, method, Stream(1), trainer.settings)


def test_probes_of_one_name_are_refused(tmp_path):
    trainer = build(tmp_path)
    with pytest.raises(ValueError, match="Probes need different names"):
        type(trainer)(trainer.backbone, trainer.processor, trainer.method, Stream(1), trainer.settings, probes=[Counter(), Counter()])


class Unsaveable(Returns):
    def state_dict(self):
        return {"seen": {1, 2}}


def test_state_that_cannot_be_saved_is_refused_before_a_step(tmp_path):
    with pytest.raises(TypeError, match=r"state/parts/losses\.mine/seen: a set has no place in a checkpoint"):
        with_losses(build(tmp_path, sessions=1), [Unsaveable(lambda ctx: pytest.fail("it trained"))]).fit()


class Sign(Plain):
    def transform(self, named_parameters):
        for _, parameter in named_parameters:
            if parameter.grad is not None:
                parameter.grad.sign_()


def test_lora_trains_by_a_rule_of_ones_own(tmp_path):
    trainer = build(tmp_path)
    method = replace(lora(epochs=1, learning_rate=1e-3), name="lora_sign", rule=Sign())
    trainer = type(trainer)(trainer.backbone, trainer.processor, method, Stream(2), trainer.settings, quiet=True)
    assert trainer.fit().method.name == "lora_sign"


class Says(Probe):
    name = "says"

    def __init__(self, *values):
        self.values, self.sessions = values, 0

    def end_session(self, trainer, session):
        self.sessions += 1

    def report(self):
        return {"sessions": self.sessions, "shares": self.values, 0: {"loss": None}}

    def state_dict(self):
        return {"sessions": self.sessions}

    def load_state_dict(self, state):
        self.sessions = state["sessions"]


def test_what_probes_report_is_part_of_the_results(tmp_path):
    def run(**settings):
        trainer = build(tmp_path, **settings)
        trainer.probes.append(Says(0.5, 0.25))
        return trainer.fit()

    said = run(sessions=1).probes
    assert said == {"says": {"sessions": 1, "shares": [0.5, 0.25], "0": {"loss": None}}}  # as JSON has it
    assert run(sessions=1, resume="auto").probes == said
    results = run(sessions=2, resume="auto")
    assert results.probes["says"]["sessions"] == 2 and results.probe_numbers == {"says.sessions": 2.0}
    assert Results.load(tmp_path / "results.json").probes == results.probes
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["report"]["sessions"] for line in lines if line["kind"] == "probe"] == [1, 2]


@pytest.mark.parametrize("value", [torch.zeros(1), float("nan")])
def test_a_report_that_json_cannot_hold_names_its_probe(tmp_path, value):
    trainer = build(tmp_path, sessions=1)
    trainer.probes.append(Says(value))
    with pytest.raises(ValueError, match=r"Probe 'says': report\(\) must give a dict of what JSON can hold"):
        trainer.fit()


class Memory(Smooth):
    """Counts sessions and keeps the count over sessions that do not list it."""

    name = "memory"

    def __init__(self):
        super().__init__(0.1)
        self._heard = []

    def begin_session(self, trainer, session):
        self._heard = [*self._heard, session.id]

    def state_dict(self):
        return {"heard": self._heard}

    def load_state_dict(self, state):
        self._heard = list(state["heard"])


def listed_in(folder, sessions, memory, in_parts=False, **settings):
    """`memory` is a loss of the given sessions, and of the method's parts if asked for."""
    trainer = build(folder, sessions=3, **settings)
    phases = trainer.method.phases

    def changed_phases(session):
        train = next(phase for phase in phases(session) if phase.epochs)
        return [replace(train, losses=[MaskedCrossEntropy(), *([memory] if session.id in sessions else [])])]

    trainer.method = replace(trainer.method, phases=changed_phases, parts=[memory] if in_parts else [])
    return trainer


def test_a_loss_that_rests_for_a_session_keeps_its_state_over_a_stop(tmp_path):
    trainer = listed_in(tmp_path, (0, 2), Memory(), checkpoint_steps=1)
    trainer.probes.append(_Stop(at=9))  # in session 1, which does not list it; two epochs of three steps are a session
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    memory = Memory()
    listed_in(tmp_path, (0, 2), memory, checkpoint_steps=1, resume="auto").fit()
    assert memory._heard == [0, 2]


def test_a_loss_among_the_parts_hears_of_every_session_once(tmp_path):
    memory = Memory()
    listed_in(tmp_path, (1, 2), memory, in_parts=True).fit()
    assert memory._heard == [0, 1, 2]


def test_two_losses_of_one_name_in_a_session_are_refused(tmp_path):
    trainer = build(tmp_path)
    phases = trainer.method.phases
    twins = replace(trainer.method, phases=lambda session: [replace(phases(session)[0], epochs=1, losses=[Smooth(0.1)]) for _ in range(2)])
    with pytest.raises(ValueError, match="Session 0 has two losses of the name 'smooth'"):
        type(trainer)(trainer.backbone, trainer.processor, twins, Stream(1), trainer.settings)


def test_facts_of_ones_own_go_into_the_details_of_a_protocol(tmp_path):
    trainer, stream = build(tmp_path), Stream(1)
    stream.protocol["angles"] = [0, 90]
    with pytest.raises(ValueError, match=r"protocol has angles: .* Facts that only this scenario has go into its `details`"):
        type(trainer)(trainer.backbone, trainer.processor, trainer.method, stream, trainer.settings)
    del stream.protocol["angles"], stream.protocol["dataset"]
    with pytest.raises(ValueError, match="protocol has dataset: "):
        type(trainer)(trainer.backbone, trainer.processor, trainer.method, stream, trainer.settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 1}, "Sessions have the ids 0, 1, 2"),
        ({"class_names": ("class 1", "class 0")}, "Session 0: class_names must be those of the sessions before it"),
        ({"class_names": (), "new_class_names": ()}, "Session 0 brings no class"),
        ({"train": Images([0, 2])}, "Session 0 trains on labels from 0 to 2; with 2 classes so far they go from 0 to 1"),
    ],
)
def test_sessions_follow_each_other(change, message):
    (session,) = Stream(1)
    with pytest.raises(ValueError, match=message):
        check_parts(SessionPlan(ovor(epochs=1), [replace(session, **change)], 8), [])
    with pytest.raises(ValueError, match="The scenario has no sessions"):
        check_parts(SessionPlan(ovor(epochs=1), [], 8), [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda optimizer, schedule, named: optimizer, "must return two things"),
        (
            lambda optimizer, schedule, named: (optimizer, lambda epoch, step: []),
            r"gives 0 rates, and the optimizer has \d parameter groups",
        ),
        (
            lambda optimizer, schedule, named: (torch.optim.SGD([torch.zeros(1)], 0.1), lambda epoch, step: [0.1]),
            "was not given in this session",
        ),
    ],
)
def test_an_optimizer_that_cannot_work_is_refused(tmp_path, change, message):
    trainer = build(tmp_path, sessions=1)
    made = trainer.method.optimizer
    trainer.method = replace(trainer.method, optimizer=lambda session, named: change(*made(session, named), named))
    with pytest.raises(ValueError, match=message):
        trainer.fit()


def test_parameters_that_no_group_holds_are_told_of(tmp_path, caplog):
    trainer = build(tmp_path, sessions=1)
    head_alone = lambda session, named: (torch.optim.SGD([p for n, p in named if n.startswith("head.")], 0.1), lambda epoch, step: [0.1])  # noqa: E731
    trainer.method = replace(trainer.method, optimizer=head_alone)
    trainer.fit()
    assert "are to train and are in no group of the optimizer" in caplog.text


class Looks(Probe):
    name = "looks"

    def end_session(self, trainer, session):
        batches = list(trainer.batches_of(session.train))
        assert torch.cat([batch["index"] for batch in batches]).tolist() == list(session.train.indices)
        assert {len(batch["pixel_values"]) for batch in batches} == {8, 2} and batches[0]["pixel_values"].dim() == 4
        assert {name.split(".")[0] for name, _ in trainer.named_parameters} >= {"head", "vit"}
        parts = [Images(session.train.labels[i : i + 3], first_index=session.train.indices[i]) for i in (0, 3, 6)]
        one_by_one = [trainer.features_of(part).features for part in parts]  # each data set is gone when the next one comes
        assert not torch.equal(one_by_one[0], one_by_one[1])
        for i in range(6):
            passing = trainer.features_of(Images([0], first_index=1000 + i))
            assert passing.index.tolist() == [1000 + i]


def test_hooks_may_look_at_batches_and_at_data_sets_that_pass(tmp_path):
    trainer = build(tmp_path, sessions=1)
    trainer.probes.append(Looks())
    trainer.fit()


def test_class_statistics_take_images_of_known_classes_beside_new_ones(tmp_path):
    class WithOld(Stream):
        def __iter__(self):
            for now in super().__iter__():
                yield now if now.id == 0 else replace(now, train=Images([0, *now.train.labels], first_index=1000 * now.id))

    class Counts(Probe):
        name = "counts"

        def end_session(self, trainer, session):
            statistics = trainer.class_statistics(session)
            assert [statistics.count(c) for c in statistics.classes] == ([9, 9] if session.id == 0 else [10, 9, 9, 9])

    trainer = with_losses(build(tmp_path, sessions=2), [MaskedCrossEntropy("seen")])
    type(trainer)(trainer.backbone, trainer.processor, trainer.method, WithOld(2), trainer.settings, probes=[Counts()]).fit()
