"""Killed at any step, the same command ends with the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
from loop_case import build, digest
from processes import run

from hf_cl.checkpoints.store import CheckpointStore

CASE = Path(__file__).with_name("loop_case.py")


def die(folder: Path, step: int, *flags: str) -> None:
    died = run(CASE, folder, *flags, f"die_at={step}")
    assert died.status == 9, died.output[-2000:]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    results = build(folder, head="prototype").fit()
    return ended(folder, results)


def ended(folder, results):
    """What a run leaves: adapters, accuracies, and the temperatures by which logits are divided."""
    return digest(folder), results.accuracy_matrix, [session.temperature for session in results.sessions], results.calibration


# 27 steps: three sessions of 3 x 2 on images and 3 with outliers
@pytest.mark.parametrize("step", [1, 5, 7, 9, 10, 17, 26])
def test_killed_and_resumed(uninterrupted, tmp_path, step):
    die(tmp_path, step, "checkpoint_steps=1", "head=prototype")
    # the kill comes before the step's own checkpoint, so the step is done again
    resumed = build(tmp_path, checkpoint_steps=1, head="prototype", resume="auto")
    results = resumed.fit()
    assert ended(tmp_path, results) == uninterrupted


def test_a_head_of_statistics_under_a_drift_map_is_resumed_to_the_bit(tmp_path):
    """Statistics, votes, and the features that the session began with."""
    results = build(tmp_path / "whole", head="gaussian").fit()
    die(tmp_path / "cut", 16, "checkpoint_steps=1", "head=gaussian")
    resumed = build(tmp_path / "cut", checkpoint_steps=1, head="gaussian", resume="auto").fit()
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")
    assert resumed.accuracy_matrix == results.accuracy_matrix


def test_resuming_a_finished_run_changes_nothing_and_says_so(uninterrupted, tmp_path, capsys):
    build(tmp_path, head="prototype").fit()
    capsys.readouterr()
    results = build(tmp_path, head="prototype", resume="auto").fit()
    assert ended(tmp_path, results) == uninterrupted
    said = capsys.readouterr().err
    assert "All sessions of this run have ended: nothing is left to train.\n" in said and "Resuming" not in said


def test_resume_starts_where_there_is_no_checkpoint(uninterrupted, tmp_path):
    build(tmp_path, head="prototype", resume="auto").fit()
    assert digest(tmp_path) == uninterrupted[0]


def test_a_torn_checkpoint_gives_way_to_the_older_one(uninterrupted, tmp_path, caplog):
    die(tmp_path, 9, "checkpoint_steps=2", "head=prototype")
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1] / "rank-000-of-001.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    build(tmp_path, checkpoint_steps=2, head="prototype", resume="auto").fit()
    assert digest(tmp_path) == uninterrupted[0]
    assert "is not whole" in caplog.text


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    build(tmp_path, sessions=1).fit()
    with pytest.raises(ValueError, match=r"method with adapter.head.type = 'linear', this one has 'cosine': resume with the same method"):
        build(tmp_path, sessions=2, head="cosine", resume="auto").fit()


def test_the_last_two_are_kept_and_hold_no_pickle(tmp_path):
    store = CheckpointStore(tmp_path)
    for step in range(4):
        store.save(step, {"step": step})
    assert store.steps() == [3, 2]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_a_checkpoint_is_read_on_any_number_of_processes(tmp_path):
    """Rank r reads what rank r modulo N wrote."""
    stores = [CheckpointStore(tmp_path, rank=rank, world=2) for rank in range(2)]
    (tmp_path / ".writing-000000005").mkdir()
    stores[1]._write(tmp_path / ".writing-000000005", {"rank": 1})
    stores[0].folder.joinpath(".writing-000000005").rename(tmp_path / "step-000000005")
    stores[0]._write(tmp_path / "step-000000005", {"rank": 0})
    for world in (1, 2, 3, 5):
        for rank in range(world):
            store = CheckpointStore(tmp_path, rank=rank, world=world)
            assert store.steps() == [5] and store.load(5) == {"rank": rank % 2} and store.world_of(store.path(5)) == 2


@pytest.mark.parametrize("text", ["null", "[]", "{}", "3", '{"rank-000-of-001.json": null}', "nonsense", ""])
def test_a_file_of_checksums_that_is_none_is_a_torn_checkpoint(text, tmp_path, caplog):
    store = CheckpointStore(tmp_path)
    store.save(1, {"x": 1})
    store.save(2, {"x": 2})
    (tmp_path / "step-000000002" / "rank-000-of-001.sha256.json").write_text(text)
    assert store.steps() == [1] and "is not whole" in caplog.text
