"""SaRA over sessions: what the switch protects, resumption, several processes, the packaged configs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from losses.fakes import session_of
from methods.sara_case import build
from peft import get_peft_model
from processes import result_of_two, run
from safetensors.torch import load_file
from torch import nn

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara import sara_lr
from hf_cl.methods import SaraSettings, sara
from hf_cl.methods.sara import ProgressiveSwitch
from hf_cl.probes import ActiveEntries
from hf_cl.run import CONFIGS, parse_settings

CASE = Path(__file__).with_name("sara_case.py")


def saved(folder: Path, session: int) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors")
    return {name: t for name, t in tensors.items() if "sara_" in name}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = build(folder)
    trainer.fit()
    return folder, trainer


def test_what_a_session_has_moved_to_the_threshold_stays(whole):
    folder, _ = whole
    for session in (0, 1):
        before, after = saved(folder, session), saved(folder, session + 1)
        stayed = moved = 0
        for key in [key for key in before if key.endswith("_active")]:
            values, resting = key.replace("_active", "_values"), ~before[key]
            assert not after[key][resting].any(), "an entry trains again"
            assert torch.equal(before[values][resting], after[values][resting])
            stayed, moved = stayed + int(resting.sum()), moved + int((before[values] != after[values])[~resting].sum())
        assert stayed > 0 and moved > 0


def test_files_do_not_grow_with_the_sessions(whole):
    folder, _ = whole
    sizes = [sum(t.nbytes for t in saved(folder, session).values()) for session in range(3)]
    assert sizes[0] == sizes[1] == sizes[2]


def test_the_probe_counts_what_still_trains(whole):
    _, trainer = whole
    report = trainer.probes[0].report()
    assert report["active_entries"][0] == report["entries"][0] > report["active_entries"][1] > report["active_entries"][2] > 0


def test_continue_switches_within_sessions_only(tmp_path):
    trainer = build(tmp_path, sessions="continue")
    seen = []
    switch = trainer.method.parts[0]
    original = switch.begin_session

    def begin_session(trainer, session):
        before = trainer.tuner.active_entries()
        original(trainer, session)
        seen.append((before, trainer.tuner.active_entries()))

    switch.begin_session = begin_session
    trainer.fit()
    assert len(seen) == 3 and all(before == after for before, after in seen)


# three sessions of six steps with the switch after the third: killed after a switch, and in a session that started with one
@pytest.mark.parametrize("step", [4, 8])
def test_killed_and_resumed(whole, tmp_path, step):
    killed = run(CASE, tmp_path, "checkpoint_steps=1", f"die_at={step}")
    assert killed.status == 9, killed.output[-2000:]
    trainer = build(tmp_path, checkpoint_steps=1, resume="auto")
    trainer.fit()
    folder, uninterrupted = whole
    for session in range(3):
        ours, theirs = saved(tmp_path, session), saved(folder, session)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), session
    assert trainer.probes[0].report() == uninterrupted.probes[0].report()


@pytest.mark.distributed
def test_two_processes_are_one(tmp_path):
    found = result_of_two(Path(__file__).with_name("sara_two_processes.py"), tmp_path)
    assert found["moved"] > 0.02
    assert max(found["differences"]) < 1e-6


@pytest.fixture
def trainer(monkeypatch):
    """A trainer whose adapter counts the switches; `trainer.active` is what it says still trains."""
    tuner = get_peft_model(nn.Sequential(nn.Linear(8, 8)), SaraConfig(target_modules=["0"], threshold=0.2)).base_model
    found = SimpleNamespace(tuner=tuner, session=None, switches=0, active=500)

    def progressive_switch():
        found.switches += 1
        return found.active

    monkeypatch.setattr(tuner, "progressive_switch", progressive_switch)
    monkeypatch.setattr(tuner, "active_entries", lambda: (found.active, 1000))
    return found


def go(part, trainer, session, steps):
    trainer.session = session
    part.begin_session(trainer, session)
    counts = []
    for _ in range(steps):
        part.after_step(trainer)
        counts.append(trainer.switches)
    return counts


def test_the_switch_comes_after_exactly_so_many_steps_of_each_session(trainer):
    part = ProgressiveSwitch(lambda session: 2)
    assert go(part, trainer, session_of(2, 2), 4) == [0, 1, 1, 1]
    assert go(part, trainer, session_of(4, 2), 3) == [2, 3, 3]  # one at the session's start


def test_no_switch_and_continue(trainer):
    part = ProgressiveSwitch(lambda session: None, "continue")
    assert go(part, trainer, session_of(2, 2), 3) == go(part, trainer, session_of(4, 2), 3) == [0, 0, 0]
    with pytest.raises(ValueError, match="'protect' or 'continue'"):
        ProgressiveSwitch(lambda session: None, "protekt")  # type: ignore[arg-type]


def test_a_session_with_hardly_anything_to_train_warns(trainer, caplog):
    caplog.set_level(logging.INFO)
    part = ProgressiveSwitch(lambda session: None)
    go(part, trainer, session_of(4, 2), 0)
    assert "starts with 500 of 1000 entries" in caplog.text and "can hardly learn" not in caplog.text
    trainer.active = 9
    go(part, trainer, session_of(4, 2), 0)
    assert "9 of 1000 entries that still train; it can hardly learn" in caplog.text


def test_the_part_resumes_its_count(trainer):
    part, again = ProgressiveSwitch(lambda session: 3), ProgressiveSwitch(lambda session: 3)
    go(part, trainer, session_of(2, 2), 2)
    go(again, trainer, session_of(2, 2), 0)
    again.load_state_dict(part.state_dict())
    again.after_step(trainer)
    assert trainer.switches == 1


def test_another_adapter_is_refused():
    with pytest.raises(ValueError, match="ProgressiveSwitch needs a SARA adapter"):
        ProgressiveSwitch(lambda session: None).begin_session(SimpleNamespace(tuner=torch.nn.Linear(1, 1)), session_of(2, 2))


def test_the_probe_survives_a_resume(trainer):
    probe, again = ActiveEntries(), ActiveEntries()
    probe.begin_session(trainer, session_of(2, 2))
    again.load_state_dict(probe.state_dict())
    assert again.report() == probe.report() == {"active_entries": [500], "entries": [1000]}


@pytest.mark.parametrize("decay", ["value", "delta"])
def test_rates_decay_and_groups(trainer, decay):
    method = sara(adapter=SaraConfig(density=0.1, decay=decay), epochs=4, weight_decay=0.02)
    method.parts[0].begin_session(trainer, session_of(2, 2))
    (_, e), head = next(trainer.tuner.sara_entries()), nn.Parameter(torch.zeros(2))
    optimizer, schedule = method.optimizer(session_of(2, 2), [("head.weight", head), ("0.sara_values.default", e.values)])
    mine, rest = optimizer.param_groups
    assert mine["params"] == [e.values] and rest["params"] == [head]
    assert (mine["weight_decay"], rest["weight_decay"]) == (0.0 if decay == "value" else 0.02, 0.02)
    assert mine["betas"] == (0.9, 0.999) and mine["eps"] == 1e-8
    assert schedule(0, 0) == [sara_lr(0.2), 1e-3]
    assert schedule(3, 0)[0] < 0.2 * schedule(0, 0)[0]
    mine["lr"] = 0.5
    e.values.grad = torch.zeros_like(e.values)
    optimizer.step()
    torch.testing.assert_close(e.values.detach(), -0.01 * e.base_values() if decay == "value" else torch.zeros_like(e.values))


def test_the_optimizer_before_any_session_and_for_another_adapter_is_refused(trainer):
    method, head = sara(adapter=SaraConfig(density=0.1)), nn.Parameter(torch.zeros(2))
    with pytest.raises(RuntimeError, match=r"no session has begun\..*before the optimizer is made"):
        method.optimizer(session_of(2, 2), [("head.weight", head)])
    method.parts[0].begin_session(trainer, session_of(2, 2))
    other = get_peft_model(nn.Sequential(nn.Linear(8, 8)), SaraConfig(target_modules=["0"], threshold=0.2))
    named = [(name, p) for name, p in other.named_parameters() if "sara_" in name]
    with pytest.raises(ValueError, match="none of the SARA adapter's parameters"):
        method.optimizer(session_of(2, 2), named)


def test_the_loop_begins_the_session_before_it_makes_the_optimizer(tmp_path):
    trainer, order = build(tmp_path), []
    switch, optimizer = trainer.method.parts[0], trainer.method.optimizer
    begin_session = switch.begin_session
    switch.begin_session = lambda trainer, session: (order.append("begin"), begin_session(trainer, session))
    made = lambda session, named: (order.append("optimizer"), optimizer(session, named))[1]  # noqa: E731
    trainer.method = type(trainer.method)(**{**trainer.method.__dict__, "optimizer": made})
    trainer.fit()
    assert order == ["begin", "optimizer"] * 3


def test_defaults_are_the_published_numbers():
    method = SaraSettings().method()
    assert method.adapter.lambda_rank == 5e-4 and method.adapter.rank_mode == "one" and method.adapter.decay == "value"
    assert method.max_grad_norm == 1.0 and SaraSettings().weight_decay == 1e-2
    assert [loss.name for loss in method.phases(session_of(2, 2))[0].losses] == ["cross_entropy", "nuclear_norm"]
    assert method.adapter.density == 0.05 and SaraSettings(threshold=8e-4).method().adapter.density is None
    assert [loss.name for loss in SaraSettings(lambda_rank=0.0).method().phases(session_of(2, 2))[0].losses] == ["cross_entropy"]


@pytest.mark.parametrize(
    ("share", "sessions", "first", "later"),
    [(0.5, "all", 50, 50), (0.5, "first", 50, None), (None, "all", None, None), (0.001, "all", 1, 1)],
)
def test_the_switch_in_steps(share, sessions, first, later):
    settings = SaraSettings(epochs=10, batch_size=4, progressive_share=share, progressive_sessions=sessions)
    switch_after = settings.method().parts[0].switch_after
    assert switch_after(replace(session_of(2, 2, labels=[0] * 37), batch_size=4)) == first  # 10 steps an epoch
    assert switch_after(replace(session_of(4, 2, labels=[0] * 37), batch_size=4)) == later


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 1e-3, "density": 0.1}, "threshold or density, not both"),
        ({"density": 0.0}, "density must lie strictly"),
        ({"progressive_share": 1.0}, "progressive_share must lie between"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SaraSettings(**settings).method()


@pytest.mark.parametrize("path", sorted((CONFIGS / "sara").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_loads_and_names_its_command(path):
    method = parse_settings(SaraSettings, "sara", ["--config", path.stem]).method()
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# accelerate launch recipes/sara.py --config recipes/configs/sara/{path.name} ")
    assert method.name == "sara" and method.citation
    if path.stem.startswith(("sd15", "paper")):
        threshold = {"sd15_50m": 2e-3, "sd15_20m": 8e-4, "sd15_5m": 2e-4, "paper_best": 2e-3}[path.stem]
        assert (method.adapter.threshold, method.adapter.density) == (threshold, None)
        assert method.adapter.lambda_rank == (5e-3 if path.stem == "paper_best" else 5e-4)
