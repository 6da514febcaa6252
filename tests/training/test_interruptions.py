"""What stops a run from outside: signals, clocks, other runs in the same folder, a full disk."""

from __future__ import annotations

import os
import signal

import pytest
import torch
import yaml
from filelock import FileLock
from loop_case import build, digest
from safetensors import SafetensorError

import hf_cl.checkpoints.store
from hf_cl.checkpoints.signals import StopSignals
from hf_cl.checkpoints.times import CheckpointTimes
from hf_cl.contracts import Probe
from hf_cl.errors import TrainingInterruptedError
from hf_cl.training.step import TrainingDivergedError


class SignalAt(Probe):
    name = "signal"

    def __init__(self, step, number):
        self.step, self.number = step, number

    def after_step(self, trainer):
        if trainer.position.step == self.step:
            os.kill(os.getpid(), self.number)


class SignalAtEnd(Probe):
    name = "signal"

    def end_session(self, trainer, session):
        if session.id == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def heard():
    """A test run in a shell's background inherits that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def with_part(trainer, part):
    trainer.probes.append(part)
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    results = build(folder, sessions=2).fit()
    return digest(folder), results.accuracy_matrix


@pytest.mark.parametrize(
    ("part", "number", "step"),
    [
        (SignalAt(4, signal.SIGTERM), signal.SIGTERM, 4),
        (SignalAt(9, signal.SIGINT), signal.SIGINT, 9),  # the last step of a session
        (SignalAtEnd(), signal.SIGTERM, 18),
    ],
)
def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(uninterrupted, tmp_path, part, number, step):
    before = signal.getsignal(number)
    with pytest.raises(TrainingInterruptedError, match="resume auto") as stop:
        with_part(build(tmp_path, sessions=2), part).fit()
    assert stop.value.exit_status == 128 + number
    assert signal.getsignal(number) is before
    assert f"step-{step:09d}" in {path.name for path in (tmp_path / "checkpoints").iterdir()}
    trainer = build(tmp_path, sessions=2, resume="auto")
    results = trainer.fit()
    assert (digest(tmp_path), results.accuracy_matrix) == uninterrupted
    assert all(session.trained for session in results.sessions)


def test_weights_that_a_hook_spoils_reach_no_checkpoint_and_no_adapter(uninterrupted, tmp_path):
    class Spoil(Probe):
        name = "spoil"

        def after_step(self, trainer):
            if trainer.position.step == 9:  # the last one of session 0: its loss has been read
                with torch.no_grad():
                    trainer.head.weight[0, 0] = torch.inf

    with pytest.raises(TrainingDivergedError, match=r"head.weight is not finite at step 9.*step-000000008"):
        with_part(build(tmp_path, sessions=2, checkpoint_steps=4), Spoil()).fit()
    assert not (tmp_path / "adapters").exists()
    build(tmp_path, sessions=2, checkpoint_steps=4, resume="auto").fit()
    assert digest(tmp_path) == uninterrupted[0]


def test_a_second_signal_is_not_caught():
    with StopSignals() as signals, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert not signals.received


def test_a_checkpoint_after_minutes(tmp_path, monkeypatch):
    trainer = build(tmp_path, checkpoint_minutes=5)
    now = [0.0]
    monkeypatch.setattr("hf_cl.checkpoints.times.time.monotonic", lambda: now[0])
    times = CheckpointTimes(trainer.settings, trainer.accelerator, StopSignals())
    now[0] = 299.0
    assert not times.due(1, reading=False)
    now[0] = 301.0
    assert times.due(2, reading=False)
    times.written()
    assert not times.due(3, reading=True)


def test_two_runs_in_one_folder(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="Another run is writing to"):
        build(tmp_path).fit()
    build(tmp_path, sessions=1).fit()  # the lock is free again


def test_a_folder_that_holds_a_run_is_not_written_over(uninterrupted, tmp_path):
    build(tmp_path, sessions=2).fit()
    with pytest.raises(ValueError, match=r"holds a run.*--resume auto"):
        build(tmp_path, sessions=2).fit()
    assert digest(tmp_path) == uninterrupted[0]


def test_resuming_with_other_settings_is_refused_by_name(tmp_path):
    build(tmp_path, sessions=1).fit()
    with pytest.raises(ValueError, match="trained with seed = 0, this run has 1"):
        build(tmp_path, sessions=1, seed=1, resume="auto").fit()
    build(tmp_path, sessions=1, logging_steps=7, resume="auto").fit()  # how often is read changes nothing
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["logging_steps"] == 7


def test_an_unreadable_config_is_refused(tmp_path):
    build(tmp_path, sessions=1).fit()
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="cannot be read"):
        build(tmp_path, sessions=1, resume="auto").fit()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="Cannot write to"):
        build(tmp_path / "file").fit()


def test_no_space_for_a_checkpoint_leaves_the_last_one(uninterrupted, tmp_path, monkeypatch):
    real, written = hf_cl.checkpoints.store.save_file, []

    def full(tensors, path):
        if len(written) == 2:
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device")
        written.append(path)
        real(tensors, path)

    monkeypatch.setattr(hf_cl.checkpoints.store, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path, sessions=2, checkpoint_steps=3).fit()
    monkeypatch.setattr(hf_cl.checkpoints.store, "save_file", real)
    build(tmp_path, sessions=2, checkpoint_steps=3, resume="auto").fit()
    assert digest(tmp_path) == uninterrupted[0]
    assert not list((tmp_path / "checkpoints").glob(".writing-*"))
