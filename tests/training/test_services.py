"""What hooks may use of the trainer beside its state: contexts, outputs and features of roles, draws by key, held-out images."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from loop_case import backbone, build, digest, processor
from stream import Images, Stream
from torch import nn

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import LossTerm, Part, Phase, Probe, everything
from hf_cl.heads import LinearHead, PoolerHead, PrototypeHead
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.rules import Plain, ProGrad, Sam
from hf_cl.training.services import Services
from hf_cl.training.step import MicroBatch, Stepper


class Records(LossTerm):
    """Keeps the logits of every call, in order."""

    name = "records"

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, ctx):
        self.calls.append((ctx.batch["index"].tolist(), ctx.logits.detach().clone()))
        return ctx.logits.square().mean()


class Reference(LossTerm):
    """What ProGrad compares with, in a pass of its own."""

    name = "reference"

    def __call__(self, ctx):
        return ctx.logits.mean()


class Looks(Probe):
    """Keeps what `after_step` finds."""

    name = "looks"

    def __init__(self) -> None:
        self.contexts, self.images_seen, self.rates = [], [], []

    def begin_session(self, trainer, session):
        assert trainer.contexts == () and trainer.images_seen == 0
        assert trainer.seed == trainer.settings.seed

    def after_step(self, trainer):
        for context in trainer.contexts:
            assert not any(t.requires_grad for view in context.views for t in (view.features, view.logits, view.embedding))
        self.contexts.append([(context.batch["index"].tolist(), context.logits.clone()) for context in trainer.contexts])
        self.images_seen.append(trainer.images_seen)
        self.rates.append([*trainer.rates])

    def end_session(self, trainer, session):
        assert trainer.contexts == ()
        assert "records" not in trainer.losses or trainer.losses["records"].name == "records"


def looked_at(folder, rule, losses, **settings):
    """The trainer's probe and the recording loss after one epoch of one session: 18 images in steps of 8, 8 and 2."""
    trainer = build(folder, sessions=1, dropout=0.1, **settings)
    records, looks = Records(), Looks()
    phases = lambda session: [Phase("train", 1, [records, *losses], everything)]  # noqa: E731
    trainer.method = replace(trainer.method, phases=phases, rule=rule)
    trainer.probes.append(looks)
    trainer.fit()
    return records, looks


RULES = {"plain": (Plain(), [], 1), "sam": (Sam(0.5), [], 2), "prograd": (ProGrad("reference"), [Reference()], 2)}


@pytest.mark.parametrize(("rule", "losses", "passes"), RULES.values(), ids=RULES)
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_contexts_are_what_the_losses_saw_in_the_first_pass(tmp_path, rule, losses, passes, micro_batches):
    records, looks = looked_at(tmp_path, rule, losses, gradient_accumulation_steps=micro_batches)
    assert len(records.calls) == 3 * passes * micro_batches
    for step, contexts in enumerate(looks.contexts):
        first = records.calls[step * passes * micro_batches :][:micro_batches]
        assert [index for index, _ in contexts] == [index for index, _ in first]
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(contexts, first, strict=True))
        if isinstance(rule, Sam):  # the second pass saw others, so that keeping its logits would be noticed
            second = records.calls[step * passes * micro_batches + micro_batches]
            assert not torch.equal(second[1], first[0][1])
    assert looks.images_seen == [8, 16, 18] and len(looks.rates) == 3 and all(rate > 0 for (rate,) in looks.rates)


def test_a_step_that_fp16_skips_leaves_its_contexts_to_nobody():
    """The stepper forgets them when the next step begins, and `after_step` is not called for the skipped one."""
    model = nn.Linear(3, 2)
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler, no_wait = torch.amp.GradScaler("cpu"), lambda optimizer: None
    accelerator = SimpleNamespace(device=torch.device("cpu"), scaler=scaler, unscale_gradients=no_wait, backward=torch.Tensor.backward)
    phase = Phase("train", 1, [Records()], everything, inputs="features")
    forward = lambda features: (features, model(features), features)  # noqa: E731
    given = lambda batch, times=1: nullcontext()  # noqa: E731
    stepper = Stepper(phase, None, Plain(), forward, optimizer, [*model.named_parameters()], accelerator, None, None, given)  # pyright: ignore

    def batch(start):
        return MicroBatch({"features": torch.randn(2, 3), "labels": torch.zeros(2), "index": torch.arange(start, start + 2)}, 1.0)

    optimizer.step_was_skipped = True  # pyright: ignore[reportAttributeAccessIssue]
    assert not stepper.step([batch(0)], 0, 0, [0.1])
    optimizer.step_was_skipped = False  # pyright: ignore[reportAttributeAccessIssue]
    assert stepper.step([batch(2)], 0, 1, [0.1])
    assert [context.batch["index"].tolist() for context in stepper.contexts] == [[2, 3]]


def test_a_view_that_two_losses_name_differently_is_run_once(tmp_path):
    runs = []

    class Both(LossTerm):
        name, needs = "both", frozenset({"pretrained"})

        def __call__(self, ctx):
            assert ctx.frozen("pretrained") is ctx.frozen("pretrained", view=0)
            return ctx.logits.mean()

    trainer = build(tmp_path, sessions=1)
    trainer.method = replace(trainer.method, phases=lambda session: [Phase("train", 1, [Both()], everything)])
    trainer.backbone.vit.embeddings.register_forward_hook(lambda module, args, out: runs.append(module.training))
    trainer.fit()
    assert runs.count(True) == 3 and runs.count(False) == 3 + 1  # steps; frozen views, and the one batch of tests


class AsksRoles(Part):
    """Compares `outputs_of` and `features_of` in every role that there is."""

    def begin_session(self, trainer, session):
        self.compared = {}
        batch = next(trainer.batches_of(session.train))
        for role in ("pretrained", "previous") if session.id else ("pretrained",):
            trainer.head.train()
            outputs = trainer.outputs_of(batch["pixel_values"], role=role)
            assert not outputs.logits.requires_grad and trainer.head.training
            found = trainer.features_of(session.train, role=role)
            assert torch.allclose(outputs.features, found.features[: len(outputs.features)], atol=1e-6)
            self.compared[role] = found.features
        with pytest.raises(ValueError, match="there is no such state"):
            trainer.outputs_of(batch["pixel_values"], role="teacher")

    def end_session(self, trainer, session):
        batch = next(trainer.batches_of(session.train))
        for name, parameter in trainer.named_parameters:
            parameter.requires_grad_(name.startswith("head."))
        assert trainer.outputs_of(batch["pixel_values"]).logits.requires_grad
        with torch.no_grad():
            assert not trainer.outputs_of(batch["pixel_values"]).logits.requires_grad
        trainer.model.eval()
        present = trainer.features_of(session.train).features
        assert torch.allclose(trainer.outputs_of(batch["pixel_values"]).features, present[: len(batch["labels"])], atol=1e-6)
        for role, before in self.compared.items():
            again = trainer.features_of(session.train, role=role).features
            assert torch.equal(again, before) and not torch.allclose(again, present)


class NeedsPrevious(MaskedCrossEntropy):
    def __init__(self) -> None:
        super().__init__()
        self.needs = frozenset({"previous"})


def test_outputs_and_features_of_every_role(tmp_path):
    trainer = build(tmp_path, sessions=2)
    phases = lambda session: [Phase("train", 1, [NeedsPrevious() if session.id else MaskedCrossEntropy()], everything)]  # noqa: E731
    trainer.method = replace(trainer.method, phases=phases, parts=[AsksRoles()])
    trainer.fit()


def test_looking_in_every_role_changes_no_weight(tmp_path):
    class Looker(Probe):
        name = "looker"

        def after_step(self, trainer):
            trainer.features_of(trainer.session.train, role="pretrained")
            trainer.generator_for("looker", trainer.session.id)

    plain, watched = build(tmp_path / "a", sessions=2), build(tmp_path / "b", sessions=2)
    watched.probes.append(Looker())
    plain.fit(), watched.fit()
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_a_generator_by_key_knows_neither_history_nor_the_global_state():
    services = Services.__new__(Services)  # its settings are all that is asked for
    services.settings = TrainingSettings(seed=3)
    draw = lambda *key: torch.rand(4, generator=services.generator_for(*key))  # noqa: E731
    first = draw("fisher", 1)
    torch.manual_seed(99)
    draw("other")
    assert torch.equal(draw("fisher", 1), first)
    others = [draw("fisher", 2), draw("fisher", "1"), draw("fisher"), draw("fisher", 1, 0), draw(1, "fisher")]
    services.settings = TrainingSettings(seed=4)
    assert not any(torch.equal(first, other) for other in [*others, draw("fisher", 1)])
    # the same in every version: what a run drew is part of its results
    services.settings = TrainingSettings(seed=0)
    assert torch.randint(1000, (3,), generator=services.generator_for("x")).tolist() == [599, 211, 677]


class Declares(Probe):
    """Says what it reads of the statistics, and reads it."""

    name, statistics = "declares", frozenset({"diag"})

    def end_session(self, trainer, session):
        assert trainer.class_statistics(session).kinds == {"diag", "full"}
        assert trainer.class_statistics(session).sessions == tuple(range(session.id + 1))
        trainer.class_statistics(session).covariance(0), trainer.class_statistics(session).variances(0)


class DeclaresLater(MaskedCrossEntropy):
    statistics = frozenset({"full"})


def test_the_one_store_keeps_what_heads_and_parts_of_all_sessions_declare(tmp_path):
    trainer = build(tmp_path, sessions=2)
    phases = lambda session: [Phase("train", 1, [DeclaresLater() if session.id else MaskedCrossEntropy()], everything)]  # noqa: E731
    trainer.method = replace(trainer.method, phases=phases)
    trainer.probes.append(Declares())
    trainer.fit()


def test_statistics_are_moved_before_any_head_reads_them(tmp_path):
    """The head is the first part; still it fits on what `before_statistics` of a later part has left."""

    class Moves(Part):
        def before_statistics(self, trainer, session):
            if session.id == 0:
                trainer.class_statistics(session).apply_linear(
                    torch.eye(32, dtype=torch.float64), torch.full((32,), 7.0, dtype=torch.float64)
                )

    settings = TrainingSettings(output_dir=str(tmp_path), cpu=True, batch_size=8)
    method = replace(build(tmp_path / "x", head="prototype").method, parts=[Moves()])
    trainer = ContinualTrainer(backbone(), processor(), method, Stream(1), settings, quiet=True)
    trainer.fit()
    head = trainer.head
    assert isinstance(head, PrototypeHead) and head.fits
    plain = trainer.features_of(trainer.session.train)
    means = torch.stack([plain.features[plain.labels == label].mean(0) for label in range(2)])
    torch.testing.assert_close(head.prototypes, means + 7.0)


def test_images_that_were_held_out_of_training(tmp_path):
    class HeldOut(Stream):
        def __iter__(self):
            for session in super().__iter__():
                yield replace(session, validation=Images(session.train.labels[:3], first_index=9000)) if session.id else session

    class Reads(Probe):
        name = "reads"

        def end_session(self, trainer, session):
            held_out = trainer.validation_of(session)
            assert (held_out is None) == (session.id == 0)
            if held_out is not None:
                assert trainer.features_of(held_out).index.tolist() == [9000, 9001, 9002]

    trainer = build(tmp_path, sessions=2)
    type(trainer)(trainer.backbone, trainer.processor, trainer.method, HeldOut(2), trainer.settings, probes=[Reads()], quiet=True).fit()


def test_heads_say_whether_they_are_linear_and_what_is_probable():
    linear, features = LinearHead(4, 3), torch.randn(5, 4)
    plain = linear.as_linear()
    assert type(plain) is nn.Linear and torch.equal(plain(features), linear(features))
    without_bias = LinearHead(4, 3, bias=False).as_linear()
    assert without_bias is not None and without_bias.bias is None
    assert PoolerHead(4, 3).as_linear() is None and PrototypeHead(4, 3).as_linear() is None and not linear.fits
    assert torch.equal(linear.probabilities(linear(features)), linear(features).softmax(-1))
