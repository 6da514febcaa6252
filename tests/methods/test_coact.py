"""CoACT's composition: phases, optimizer, parts, and small runs of the loop."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from coact_runs import build, files
from safetensors.torch import load_file

from hf_cl.adapters import AsyncLoraConfig
from hf_cl.contracts import Probe, Session
from hf_cl.methods.coact import CoactSettings, EmaTeacher, coact

NAMES = [
    "head.weight",
    "head.pooler.weight",
    "vit.layers.0.attention.q_proj.async_lora_A.default.weight",
    "vit.layers.3.mlp.fc1.async_lora_copy.default.weight",
]
ROWS, POOLER, LORA, COPY = NAMES


def session(number: int, classes: int = 4) -> Session:
    names = tuple(f"class {i}" for i in range(classes * (number + 1)))
    return Session(number, names, names[classes * number :], train=None, tests=())


def trained(phase) -> set[str]:
    return {name for name in NAMES if phase.trainable(name)}


# Phases and optimizer
def test_session_0_has_two_phases_with_one_sgd():
    method = coact(adapter=AsyncLoraConfig(unfreeze_from=2, unfreeze_epoch=10), epochs=50, learning_rate=0.1, encoder_lr_factor=0.01)
    lora, unfrozen = method.phases(session(0))
    assert (lora.epochs, unfrozen.epochs) == (10, 40)
    assert trained(lora) == {ROWS, LORA} and trained(unfrozen) == set(NAMES)
    assert [term.name for term in lora.losses] == ["cross_entropy", "supervised_contrastive"]
    parameters = {name: torch.nn.Parameter(torch.zeros(2)) for name in NAMES}
    sgd, schedule = method.optimizer(session(0), list(parameters.items()))
    assert [{id(p) for p in group["params"]} for group in sgd.param_groups] == [
        {id(parameters[ROWS]), id(parameters[LORA])},
        {id(parameters[POOLER]), id(parameters[COPY])},
    ]
    assert all((g["momentum"], g["nesterov"], g["weight_decay"]) == (0.9, True, 5e-4) for g in sgd.param_groups)
    assert schedule(0, 0) == [0.1, 0.1 * 0.01]
    assert schedule(25, 3) == pytest.approx([0.05, 0.0005]) and schedule(49, 0)[0] == pytest.approx(
        0.05 * (1 + math.cos(math.pi * 49 / 50))
    )


@pytest.mark.parametrize(("unfreeze_from", "unfreeze_epoch", "epochs"), [(2, 0, (0, 5)), (None, 0, (5, 0)), (2, 9, (5, 0))])
def test_unfreezing_at_once_never_and_too_late(unfreeze_from, unfreeze_epoch, epochs):
    adapter = AsyncLoraConfig(unfreeze_from=unfreeze_from, unfreeze_epoch=unfreeze_epoch)
    lora, unfrozen = coact(adapter=adapter, epochs=5).phases(session(0))
    assert (lora.epochs, unfrozen.epochs) == epochs and POOLER not in trained(lora)


@pytest.mark.parametrize(
    ("settings", "trains"),
    [
        ({"incremental_train": "classifier"}, {ROWS}),
        ({"incremental_train": "lora"}, {LORA}),
        ({"incremental_train": "classifier+lora"}, {ROWS, LORA}),
        ({"incremental_train": "lora", "incremental_unfrozen": True}, {LORA, POOLER, COPY}),
    ],
)
def test_what_trains_later(settings, trains):
    (phase,) = coact(**settings).phases(session(1))
    assert trained(phase) == trains


def test_later_sessions_have_a_constant_rate():
    method = coact(incremental_epochs=3, learning_rate=0.5, incremental_lr_factor=0.01)
    assert method.phases(session(2))[0].epochs == 3
    parameters = [(name, torch.nn.Parameter(torch.zeros(2))) for name in NAMES]
    assert [method.optimizer(session(2), parameters)[1](epoch, 0) for epoch in (0, 2)] == [(0.005, 0.005)] * 2
    sgd, schedule = method.optimizer(session(2), [(name, p) for name, p in parameters if name in (ROWS, LORA)])
    assert len(sgd.param_groups) == len(schedule(0, 0)) == 1


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        ({"incremental_train": "lora"}, {"supervised_contrastive": ("base_teacher", "pretrained"), "consistency": None}),
        ({"incremental_train": "classifier"}, {"consistency": None}),
        ({"objective": "figure", "incremental_train": "lora"}, {"base_contrast": ("base",), "asynchronous_contrast": ("teacher",)}),
        ({"objective": "figure", "incremental_train": "classifier"}, {}),
    ],
)
def test_terms_of_later_sessions(settings, terms):
    (phase,) = coact(**settings).phases(session(1))
    assert phase.losses[0].name == "cross_entropy" and phase.losses[0].classes == "seen"
    assert {term.name: getattr(term, "roles", None) for term in phase.losses[1:]} == terms


def test_the_log_says_what_does_not_happen(caplog):
    coact(incremental_epochs=0)
    assert "nothing is trained" in caplog.text
    coact(incremental_train="classifier")
    assert "contrasts have no gradient" in caplog.text
    coact().phases(session(0, classes=1))
    assert "one class" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"), [({"objective": "code"}, "'fixed' or 'figure'"), ({"incremental_train": "pet"}, "classifier\\+lora")]
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        coact(**settings)


def test_settings_describe_the_method():
    settings = CoactSettings(unfreeze_from=-1, unfreeze_epoch=7, lora_blocks=[0, 1], ema_decay=0.9, epochs=20, incremental_train="lora")
    method = settings.method()
    config = method.adapter
    assert (config.unfreeze_from, config.unfreeze_epoch, config.layers_to_transform, config.ema_decay) == (-1, 7, [0, 1], 0.9)
    assert config.head == {"type": "linear", "bias": False, "pooler": True}
    assert [phase.epochs for phase in method.phases(session(0))] == [7, 13]
    assert trained(method.phases(session(1))[0]) == {LORA}


# Small runs of the loop
class StopAt(Probe):
    name = "stop"

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, trainer) -> None:
        if trainer.position.step == self.step:
            raise KeyboardInterrupt


class Watch(Probe):
    """What the adapter did in each epoch and at the end of each session."""

    name = "watch"

    def __init__(self) -> None:
        self.epochs, self.rows, self.teacher_moved = [], [], []

    def begin_session(self, trainer, session) -> None:
        self.rows.append(trainer.head.weight.detach().clone())
        self.before = None

    def begin_epoch(self, trainer, epoch) -> None:
        self.epochs.append((trainer.session.id, trainer.tuner.copies_train(), trainer.model.peft_config["default"].unfrozen))

    def end_session(self, trainer, session) -> None:
        teacher = trainer.tuner.role_tensors("teacher")
        self.teacher_moved.append(sum(float(t.double().sum()) for t in teacher.values()))


def same(one, other) -> bool:
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module", params=["fixed", "figure"])
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    watch = Watch()
    results = build(folder, watch, objective=request.param).fit()
    return request.param, folder, watch, results


def test_a_run(run):
    objective, folder, watch, results = run
    assert watch.epochs == [(0, False, False), (0, True, True), (1, False, True), (2, False, True)]
    assert all(s.trained for s in results.sessions)
    first, second, third = files(folder)
    copies = [name for name in first if "async_lora_copy" in name]
    assert len(copies) == 18 and all(torch.equal(first[name], third[name]) for name in copies)  # frozen after session 0
    assert all(torch.equal(first[name], third[name]) for name in first if "pooler" in name)
    assert all(not torch.equal(second[name], third[name]) for name in first if "async_lora_A" in name)
    teachers = len(set(watch.teacher_moved))
    assert teachers == (1 if objective == "fixed" else 3)  # only "figure" lets the teacher go on
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    names = {key for line in log if line["kind"] == "train" and line["session"] == 1 for key in line if key.startswith("loss_")}
    terms = ("supervised_contrastive", "consistency") if objective == "fixed" else ("base_contrast", "asynchronous_contrast")
    assert names == {"loss_cross_entropy", *(f"loss_{term}" for term in terms)}


# 18 images in steps of 8: three steps an epoch; the unfreezing is before step 4, session 1 begins before step 7
@pytest.mark.parametrize(("run", "step"), [("fixed", 4), ("fixed", 5), ("fixed", 7), ("figure", 8)], indirect=["run"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(run, tmp_path, step):
    objective, folder, _, _ = run
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, StopAt(step), objective=objective, settings={"checkpoint_steps": 1}).fit()
    results = build(tmp_path, StopAt(-1), objective=objective, settings={"resume": "auto"}).fit()
    assert same(files(tmp_path), files(folder)) and len(results.sessions) == 3


@pytest.mark.parametrize("run", ["fixed"], indirect=True)
def test_a_finished_run_that_is_resumed_has_its_model(run, tmp_path):
    _, folder, _, _ = run
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    trainer = build(tmp_path, StopAt(-1), settings={"resume": "auto"})
    trainer.fit()
    trainer.save_adapter(tmp_path / "again")
    assert same([load_file(tmp_path / "again" / "adapter_model.safetensors")], files(folder)[-1:])


def test_only_rows_are_written_without_incremental_epochs(tmp_path):
    watch = Watch()
    trainer = build(tmp_path, watch, incremental_epochs=0)
    results = trainer.fit()
    assert [s.trained for s in results.sessions] == [True, False, False]
    first, second, third = files(tmp_path)
    key = "base_model.model.classifier.weight"
    assert torch.equal(second[key][:2], first[key]) and torch.equal(third[key][:4], second[key])
    assert all(torch.equal(first[name], third[name]) for name in first if name != key)
    data = trainer.features_of(trainer.session.train)
    embeddings = trainer.head.embed(data.features)
    means = torch.stack([embeddings[data.labels == label].mean(0) for label in (4, 5)])
    torch.testing.assert_close(third[key][4:], means)


def test_prototypes_of_session_0_are_a_choice(tmp_path):
    rows = []
    for start in (True, False):
        watch = Watch()
        build(tmp_path / str(start), watch, sessions=1, epochs=1, start_with_prototypes=start).fit()
        rows.append(watch.rows[0])
    assert rows[0].abs().max() > 0.5 and not torch.equal(*rows)  # the new rows' initial values are within 1 / sqrt(32)
    assert rows[1].abs().max() <= 1 / math.sqrt(32)


def test_a_class_without_images_has_no_prototype():
    from types import SimpleNamespace

    from hf_cl.contracts import FeatureSet
    from hf_cl.heads import LinearHead
    from hf_cl.parts import Prototypes

    data = FeatureSet(torch.randn(3, 5), torch.tensor([0, 0, 1]), torch.arange(3))
    trainer = SimpleNamespace(head=LinearHead(5, 4, bias=False), features_of=lambda dataset: data)
    with pytest.raises(ValueError, match="no training image of 'class 2'"):
        Prototypes(base_session=True).begin_session(trainer, session(0))


def test_the_teacher_part_before_it_has_a_tuner():
    part = EmaTeacher("fixed", clone=False)
    assert part.state_dict() == {}
    part.load_state_dict({})
