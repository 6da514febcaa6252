"""Runs that train on images of earlier sessions: which images come into which step, what is recorded, and going on after a kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import memory_case
import pytest
import torch
from loop_case import digest
from memory_case import build
from test_epoch_order import COUNT, shares_of

from hf_cl.contracts import Part
from hf_cl.hub.card import ModelCardInput, model_card
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods import compose, linear_probe, lora, ovor
from hf_cl.methods.baselines import LoraSettings
from hf_cl.methods.with_memory import with_memory
from hf_cl.results.remarks import remarks
from hf_cl.training.epoch_order import Replay

HERDING = {"type": "exemplars", "per_class": 3}
BESIDE = {"type": "exemplars", "per_class": 5, "choose": "random", "replay": 4}


class Steps(Part):
    """What came into each step: (session, own labels, replayed labels, exemplars)."""

    def __init__(self) -> None:
        self.seen = []

    def after_step(self, trainer):
        for ctx in trainer.contexts:
            replayed = ctx.batch.get("replayed", torch.zeros_like(ctx.labels, dtype=torch.bool))
            assert ctx.replayed_share == pytest.approx(float(replayed.float().mean()))
            exemplar = ctx.batch["exemplar"][replayed].tolist() if "exemplar" in ctx.batch else []
            self.seen.append((ctx.session.id, ctx.labels[~replayed].tolist(), ctx.labels[replayed].tolist(), exemplar))

    def of(self, session):
        return [step[1:] for step in self.seen if step[0] == session]


def fit(folder, spec, **more):
    steps = Steps()
    trainer = build(folder, memory=spec, part=steps, **more)
    return trainer, trainer.fit(), steps


def test_exemplars_are_shuffled_in_with_the_sessions_images(tmp_path):
    trainer, results, steps = fit(tmp_path, HERDING)
    assert all(not replayed for _, replayed, _ in steps.of(0)) and len(steps.of(0)) == 3  # 18 images in steps of 8
    for session, kept in ((1, 6), (2, 12)):
        taken = steps.of(session)
        assert len(taken) == -(-(18 + kept) // 8)
        own, replayed, exemplars = (Counter(value for step in taken for value in step[i]) for i in range(3))
        assert own == {2 * session: 9, 2 * session + 1: 9}
        assert replayed == dict.fromkeys(range(2 * session), 3) and exemplars == dict.fromkeys(range(kept), 1)
        assert any(step[0] and step[1] for step in taken)  # mixed, not one after the other
    assert [session.kept_images for session in results.sessions] == [6, 12, 18] and results.kept_images == 18
    assert [session.num_train for session in results.sessions] == [18] * 3
    assert trainer.session.joined == 12 and trainer.session.steps_per_epoch() == 4


def test_exemplars_are_drawn_beside_every_batch(tmp_path):
    _, _, steps = fit(tmp_path, BESIDE)
    taken = steps.of(2)
    assert [len(step[0]) for step in taken] == [8, 8, 2] and [len(step[1]) for step in taken] == [4] * 3
    assert all(len(set(step[2])) == 4 and all(label < 4 for label in step[1]) for step in taken)
    assert len({tuple(sorted(step[2])) for step in taken}) > 1


def test_report_card_and_comparison_say_what_was_kept(tmp_path):
    _, results, _ = fit(tmp_path, HERDING)
    (sentence,) = [sentence for sentence in remarks(results) if "xemplar" in sentence]
    assert sentence.startswith("Not exemplar-free: up to 18 training images")
    card = ModelCardInput(results=results, settings={}, base_model="demo", adapter="x", method=results.method.title, adapter_type="GLAD")
    text = str(model_card(card))
    assert "Not exemplar-free: up to 18" in text and "3 exemplars a class (herding)" in text
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["sessions"][1]["kept_images"] == 12
    assert json.loads((tmp_path / "method.json").read_text())["memory"] == {
        "type": "Exemplars",
        "per_class": 3,
        "total": None,
        "choose": "herding",
        "replay": 0,
    }
    free = build(tmp_path / "free", memory=None).fit()
    assert any(sentence.startswith("Exemplar-free") for sentence in remarks(free)) and free.kept_images == 0


@pytest.mark.parametrize("spec", [HERDING, {**BESIDE, "per_class": None, "total": 12, "choose": "reservoir"}], ids=["joined", "beside"])
def test_a_run_that_stopped_inside_a_session_goes_on_to_the_bit(spec, tmp_path):
    """With logits kept beside the images (DER++), herding, and a reservoir drawn from beside; it stops in session 2."""
    whole = build(tmp_path / "whole", memory=spec, der=True).fit()
    with pytest.raises(RuntimeError, match="stopped"):
        build(tmp_path / "cut", memory=spec, der=True, stop_at=8).fit()
    resumed = build(tmp_path / "cut", memory=spec, der=True)
    results = resumed.fit()
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert results.accuracy_matrix == whole.accuracy_matrix and results.sessions == whole.sessions


def test_old_classes_are_remembered(tmp_path):
    """All classes compete in the loss: without exemplars session 0 is forgotten whole, with five a class it is not."""
    probe = linear_probe(epochs=20, learning_rate=3e-2, loss_scope="seen")
    forgot = build(tmp_path / "without", method=probe).fit()
    kept = build(tmp_path / "with", method=with_memory(probe, {**HERDING, "per_class": 5})).fit()
    first = [results.accuracy_matrix[-1][0] for results in (forgot, kept)]
    assert first[0] <= 0.25 and first[1] >= 0.6, first
    assert kept.metrics["forgetting"] < forgot.metrics["forgetting"] - 0.3


def test_a_loss_among_new_classes_is_refused_by_a_sentence(tmp_path):
    for method in (lora(epochs=1), ovor(epochs=1), compose(main={"type": "stablemax"}, epochs=1)):
        with pytest.raises(ValueError, match=r"lets a session's own classes compete alone, and the memory brings images of others"):
            build(tmp_path, method=with_memory(method, HERDING))
    with pytest.raises(ValueError, match="loss_scope: new lets a session's own classes compete alone"):
        LoraSettings(memory=HERDING, loss_scope="new")
    with pytest.raises(ValueError, match="compares with images of earlier sessions, and the run keeps none"):
        build(tmp_path, method=compose(losses={"logit_replay": {}}))


def test_phases_on_features_replay_too(tmp_path):
    steps = Steps()
    method = with_memory(ovor(epochs=1, vor_epochs=1, warmup_epochs=1, loss_scope="seen"), BESIDE)
    build(tmp_path, method=method, part=steps, sessions=2).fit()
    taken = steps.of(1)
    assert len(taken) == 9 and all(len(step[1]) == 4 for step in taken)  # warmup, train and vor


def test_a_method_is_used_for_two_runs_one_after_the_other(tmp_path):
    method = with_memory(compose(epochs=1), HERDING)
    first = build(tmp_path / "a", method=method).fit()
    second = build(tmp_path / "b", method=method).fit()
    assert digest(tmp_path / "a") == digest(tmp_path / "b") and first.sessions == second.sessions


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_share_of_a_step_has_both_kinds(world):
    replay = Replay(own=COUNT - 6, draw=lambda step: [step, (step + 2) % 6, 5 - step])
    for rank in range(world):
        for step in shares_of(rank, world, 1, replay):
            for micro in step:
                if micro.weight and len(micro.batch["index"]) > 4:
                    assert 0 < int(micro.batch["replayed"].sum()) < len(micro.batch["index"])
                assert micro.replayed_share in (3 / 11, 3 / 8)  # 13 of the session in steps of 8: 8 and 5, each with 3
                own = micro.batch["exemplar"] < 0
                assert torch.equal(own, ~micro.batch["replayed"]) and (micro.batch["index"][own] < COUNT - 6).all()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_train_what_one_trains(tmp_path):
    """The same exemplars, draws and losses: parameters after three sessions agree as two cuts of the same sums do."""
    case = Path(memory_case.__file__)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(case.parents[1]), str(case.parent), *sys.path])}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launcher, str(case), str(tmp_path / "two")], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one = memory_case.run(tmp_path / "one")
    two = json.loads((tmp_path / "two" / "record.json").read_text())
    assert two["kept"] == one["kept"]
    assert two["norms"].keys() == one["norms"].keys()
    for name, value in one["norms"].items():
        assert two["norms"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_the_default_loss_of_compose_sees_all():
    (phase,) = compose().phases(memory_case.FIRST)
    assert isinstance(phase.losses[0], MaskedCrossEntropy) and "own_classes" not in phase.losses[0].needs
