"""Sessions without a new class: more images of classes that are known, or the same classes in another domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from loop_case import DieAt, backbone, digest, processor
from peft import PeftModel
from safetensors.torch import load_file
from stream import AgainStream, Images, Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Probe, Test
from hf_cl.losses import EWC, MaskedCrossEntropy
from hf_cl.methods import cpe_clip, dkvb, frozen, lora, nearest_class_mean, slca
from hf_cl.results.report import render_report
from hf_cl.results.results import Results

METHODS = {
    "gaussian": frozen,
    "gaussian on a map": lambda: frozen({"type": "gaussian", "feature_map": "rff", "map_dim": 64}),
    "ridge": lambda: frozen({"type": "ridge"}),
    "ridge on a map": lambda: frozen({"type": "ridge", "feature_map": "relu", "map_dim": 64, "class_balance": False}),
    "prototype": nearest_class_mean,
    "dkvb": lambda: dkvb(epochs=1, head={"codebooks": 4, "keys": 8}),
    "slca": lambda: slca(epochs=1),
    "lora": lambda: lora(epochs=1, head={"type": "linear"}),
}


def trainer_of(folder: Path, method, stream, **settings) -> ContinualTrainer:
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "none", "cpu": True, **settings}
    probes = values.pop("probes", [])
    return ContinualTrainer(
        backbone(0.0), processor(), method, stream, TrainingSettings(output_dir=str(folder), **values), probes=probes, quiet=True
    )


@pytest.fixture(scope="module", params=METHODS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = trainer_of(folder, METHODS[request.param](), AgainStream())
    return trainer, trainer.fit(), folder


def test_every_kind_of_head_learns_more_of_known_classes(run):
    trainer, results, folder = run
    assert Results.load(folder / "results.json").metrics == results.metrics
    assert [len(session.new_class_names) for session in results.sessions] == [2, 2, 0, 2]
    assert [session.num_test for session in results.sessions] == [8, 8, 0, 8] and results.test_counts == [8, 8, 0, 8]
    missing = [(t, j) for t, row in enumerate(results.accuracy_matrix) for j, value in enumerate(row) if value is None]
    assert missing == [(2, 2), (3, 2)]
    assert results.metrics["new_session_accuracy"][2] is None
    assert results.metrics["final_accuracy"] == pytest.approx(np.average([results.accuracy_matrix[3][j] for j in (0, 1, 3)]))
    page = render_report(results, {}, method="frozen")
    assert "none: more images of known classes" in page and '<td class="empty">' in page
    trained = load_file(folder / "adapters" / "session-3" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in trained.values() if tensor.is_floating_point())
    if trainer.statistics.sessions:
        assert trainer.statistics.sessions == (0, 1, 2, 3)
        assert [trainer.statistics.count(label) for label in range(6)] == [9, 18, 18, 9, 9, 9]


@pytest.mark.parametrize(
    "head",
    [
        {"type": "gaussian", "covariance": "shared", "shrinkage": 0.1, "temperature": 1.0},
        {"type": "ridge", "lam": 1.0},
        {"type": "prototype"},
    ],
    ids=lambda head: head["type"],
)
def test_a_fitted_head_is_that_of_all_images_at_once(tmp_path, head):
    """Of the classes 0 to 3: in two sessions and one of more images, or beside the new classes of the second, or with their own."""

    class Shorter(AgainStream):
        def __iter__(self):
            yield from [*super().__iter__()][:3]

    class AtOnce(Stream):
        def __iter__(self):
            for session in super().__iter__():
                more = np.repeat([label for label in (1, 2) if label // 2 == session.id], self.train)
                offset = 5000 + (self.train if session.id else 0)
                yield replace(session, train=Joined(session.train, Images(more, first_index=offset)))

    found = []
    for name, stream in (("parts", Shorter()), ("mixed", Mixed()), ("whole", AtOnce(2))):
        trainer = trainer_of(tmp_path / name, frozen(head), stream)
        trainer.fit()
        trainer.model.eval()
        with torch.no_grad():
            found.append(trainer.head(torch.randn(50, 32, generator=torch.Generator().manual_seed(1))))
    assert torch.allclose(found[0], found[2], atol=1e-4, rtol=1e-4)
    assert torch.allclose(found[1], found[2], atol=1e-4, rtol=1e-4)


REAL_ROWS = {"type": "kernel_ridge", "memory": "features"}


@pytest.mark.parametrize(
    ("head", "counted"), [({"type": "fetril"}, [9, 9, 18, 9]), (REAL_ROWS, [9, 9, 18, 9]), ({"type": "gaussian"}, [9, 18, 18, 9])]
)
def test_a_head_that_takes_no_more_of_a_class_counts_the_others(tmp_path, head, counted):
    """FeTrIL translates new classes alone; a session without one is refused, and in one with some its own classes count."""
    trainer = trainer_of(tmp_path, frozen(head), Mixed())
    trainer.fit()
    assert [trainer.statistics.count(label) for label in range(4)] == counted


class Mixed(AgainStream):
    """Two sessions; the second has more images of the classes 1 and 2 beside its own."""

    def __iter__(self):
        first, second, again, _ = super().__iter__()
        yield first
        yield replace(second, train=Joined(second.train, again.train))


class Joined:
    """Two data sets as one."""

    def __init__(self, *parts):
        self.parts = parts
        self.labels = np.concatenate([part.labels for part in parts]).astype(int)
        self.indices = np.concatenate([part.indices for part in parts])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, position):
        for part in self.parts:
            if position < len(part):
                return part[position]
            position -= len(part)
        raise IndexError


class Domains(Stream):
    """The same two classes in three domains; task-aware accuracy among the classes that a test names."""

    def __init__(self, own=()):
        super().__init__(1)
        self.own = own

    def __iter__(self):
        (first,) = super().__iter__()
        tests = []
        for t in range(3):
            tests.append(Test(f"domain-{t}", Images(np.repeat((0, 1), 4), first_index=2000 * t + 500), (0, 1), self.own))
            names = first.class_names if t == 0 else ()
            yield replace(first, id=t, new_class_names=names, train=Images(np.repeat((0, 1), 9), first_index=2000 * t), tests=tuple(tests))


def test_the_same_classes_in_other_domains(tmp_path):
    trainer = trainer_of(tmp_path / "run", lora(epochs=1, head={"type": "linear"}), Domains(), stability_every=2)
    results = trainer.fit()
    assert results.accuracy_matrix == results.accuracy_matrix_task_aware == results.accuracy_matrix_within
    assert [len(row) for row in results.accuracy_matrix] == [1, 2, 3] and results.session_confusion == [] and results.confused_pairs == []
    assert results.test_counts == [8, 8, 8] and all(session.trained for session in results.sessions)
    page = render_report(results, {}, method="lora")
    assert "Which session's class was named" not in page and "came later than their own" not in page
    assert trainer.model.peft_config["default"].classes_per_session == [2, 0, 0]
    loaded = PeftModel.from_pretrained(backbone(0.0), str(tmp_path / "run" / "adapters" / "session-2")).eval()
    pixels = torch.randn(2, 3, 32, 32)
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(pixels).logits, trainer.model(pixels).logits)


def test_task_aware_accuracy_is_among_the_classes_that_a_test_names(tmp_path):
    class One(Domains):
        def __iter__(self):
            for session in super().__iter__():
                tests = [
                    Test(t.name, Images(np.zeros(4, int), first_index=900 + j), t.candidates, (0,)) for j, t in enumerate(session.tests)
                ]
                yield replace(session, tests=tuple(tests))

    results = trainer_of(tmp_path, frozen({"type": "prototype"}), One()).fit()
    assert results.accuracy_matrix_task_aware == [[1.0], [1.0, 1.0], [1.0, 1.0, 1.0]]


def test_a_test_holds_no_class_that_is_not_its_own(tmp_path):
    with pytest.raises(ValueError, match="The test domain-0 has images of the class at position 1, which is none of its own classes"):
        trainer_of(tmp_path, frozen(), Domains(own=(0,))).fit()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: frozen({"type": "fetril"}), "FeTrILHead: FeTrIL translates the features of new classes"),
        (lambda: frozen({"type": "ridge", "feature_map": "relu", "map_dim": 64}), "keeps no scatter of single classes"),
        (lambda: slca(epochs=1, alignment={"covariance": "low_rank"}), "takes no more samples of a class"),
    ],
)
def test_what_cannot_learn_more_of_a_class_is_refused_before_anything_trains(tmp_path, method, message):
    with pytest.raises(ValueError, match=f"Session 2 brings images of known classes and no new class, .*{message}"):
        trainer_of(tmp_path, method(), AgainStream()).fit()
    assert not list(tmp_path.glob("adapters/*"))


def test_a_step_scaled_by_new_classes_is_refused_too(tmp_path):
    with pytest.raises(ValueError, match="Session 2 brings no new class, and steps that are scaled by new classes"):
        trainer_of(tmp_path, cpe_clip(), AgainStream())


@pytest.mark.parametrize("loss", [MaskedCrossEntropy("new"), EWC()])
def test_losses_over_own_classes_are_refused_where_images_of_others_are_trained_on(tmp_path, loss):
    class Blurry(Stream):
        def __iter__(self):
            for session in super().__iter__():
                yield replace(session, train=Images([*session.train.labels, 0], first_index=3000 * session.id))

    method = lora(epochs=1, head={"type": "linear"})
    phases = method.phases
    method = replace(method, phases=lambda session: [replace(phase, losses=[loss]) for phase in phases(session)])
    with pytest.raises(ValueError, match=f"Loss {loss.name!r} is over the session's own classes, and session 1 has images of 'class 0'"):
        trainer_of(tmp_path, method, Blurry()).fit()


def test_a_loss_in_which_all_compete_is_warned_of_where_few_classes_come_again(tmp_path, caplog):
    stop = [DieNow()]
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path, lora(epochs=1, head={"type": "linear"}), AgainStream(), probes=stop).fit()
    assert "Session 2 brings images of 2 of the 4 known classes, and a loss in which all compete pulls towards those" in caplog.text


class DieNow(Probe):
    """Stops a run when it begins."""

    name = "die"

    def begin_session(self, trainer, session):
        raise KeyboardInterrupt


def test_a_session_that_brings_nothing_cannot_be_the_first(tmp_path):
    class Nothing(Domains):
        def __iter__(self):
            for session in super().__iter__():
                yield replace(session, new_class_names=(), class_names=())

    with pytest.raises(ValueError, match="Session 0 brings no class"):
        trainer_of(tmp_path, frozen(), Nothing())


def test_it_resumes_to_the_bit_inside_a_session_without_new_classes(tmp_path):
    method = lambda: lora(epochs=1, head={"type": "linear"})  # noqa: E731
    whole = trainer_of(tmp_path / "whole", method(), AgainStream(more=2))
    expected = whole.fit()

    class Stop(DieAt):
        def after_step(self, trainer):
            if trainer.position.step == self.step:
                raise KeyboardInterrupt

    folder, step = tmp_path / "stopped", 8  # sessions have 3 steps each
    with pytest.raises(KeyboardInterrupt):
        trainer_of(folder, method(), AgainStream(more=2), probes=[Stop(step)], checkpoint_steps=1).fit()
    again = trainer_of(folder, method(), AgainStream(more=2), resume="auto", checkpoint_steps=1)
    assert again.fit().metrics == expected.metrics
    assert digest(folder) == digest(tmp_path / "whole")
