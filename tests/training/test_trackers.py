"""Trackers of accelerate get every number of the log; without a network, and each in a process of its own, as they leave threads behind."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from processes import run as start

from hf_cl.training.records import start_trackers

CASE = Path(__file__).with_name("tracker_case.py")


def run(tracker, folder, **environment):
    if find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    done = start(CASE, folder, tracker, **environment)
    assert done.status == 0, done.output[-2000:]


def test_tensorboard(tmp_path):
    run("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "hf_cl"))
    events.Reload()
    assert [(e.step, round(e.value, 4)) for e in events.Scalars("train/loss_cross_entropy")] == [(1, 1.0), (2, 0.5), (3, 0.3333)]
    (hparams,) = (tmp_path / "hf_cl").glob("*/hparams.yml")
    assert yaml.safe_load(hparams.read_text())["head"] == "{'type': 'cosine'}"
    assert [(e.step, e.value) for e in events.Scalars("session/final_accuracy")] == [(3, 0.625)]


def test_wandb_offline(tmp_path):
    run("wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    (log,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = log.read_bytes()
    assert b"learning_rate" in content and b"animals" in content
    assert b"train/loss_cross_entropy" in content and b"session/final_accuracy" in content and b"0.625" in content


def test_trackio(tmp_path):
    run("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    import sqlite3

    (database,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as connection:
        rows = "\n".join(
            row[0] if isinstance(row[0], str) else bytes(row[0]).decode("utf-8", "replace")
            for row in connection.execute("SELECT metrics FROM metrics")
        )
    assert "train/loss_cross_entropy" in rows and "0.625" in rows


def test_a_tracker_that_is_not_installed_is_no_silence(tmp_path):
    accelerator = SimpleNamespace(log_with=["tensorboard"])  # accelerate has left the other one out
    with pytest.raises(ValueError, match="names comet_ml, which is not installed: pip install comet_ml"):
        start_trackers(accelerator, ["tensorboard", "comet_ml"], {}, tmp_path)
