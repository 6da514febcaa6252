"""Class statistics in files: one per session that nobody changes, and what lies beside an adapter."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_cl.checkpoints.statistics_files import (
    STATISTICS_FILE,
    SavedStatistics,
    StatisticsFiles,
    load_statistics,
    save_statistics,
    training_state,
)
from hf_cl.checkpoints.store import CheckpointStore
from hf_cl.heads import build_head
from hf_cl.memory import ClassStatistics


def with_session(statistics, session):
    """Two classes more."""
    generator = torch.Generator().manual_seed(session)
    labels = torch.arange(12) % 2 + 2 * session
    statistics.count_session(session, torch.randn(12, 4, generator=generator), labels)
    return statistics


def equal(a, b):
    return a.classes == b.classes and all(
        torch.equal(a.mean(c), b.mean(c)) and torch.equal(a.factor(c), b.factor(c)) and a.count(c) == b.count(c) for c in a.classes
    )


def read(files, folder, statistics):
    again = ClassStatistics()
    again.restore(statistics.summary(), StatisticsFiles(folder).read(files))
    return again


def test_each_session_adds_a_file_and_changes_none(tmp_path):
    statistics, files = ClassStatistics({"full", "pooled"}), StatisticsFiles(tmp_path)
    stamps, named = {}, {}
    for session in range(4):
        named = files.write(with_session(statistics, session))
        assert [*named.values()] == [[2 * k, 2 * k + 1] for k in range(session + 1)]
        assert equal(read(named, tmp_path, statistics), statistics)
        now = {path: path.stat().st_mtime_ns for path in (tmp_path / "statistics").iterdir()}
        assert len(now) == session + 1 and stamps.items() <= now.items()
        stamps = now
    assert files.write(statistics) == named and {p.stat().st_mtime_ns for p in stamps} == {*stamps.values()}


def test_a_run_that_goes_on_writes_what_is_new_alone(tmp_path):
    statistics = with_session(ClassStatistics({"full"}), 0)
    named = StatisticsFiles(tmp_path).write(statistics)
    files, again = StatisticsFiles(tmp_path), ClassStatistics()
    again.restore(statistics.summary(), files.read(named))
    assert files.write(again) == named
    more = files.write(with_session(again, 1))
    assert [*more] == [*named, *(more.keys() - named.keys())] and len(more) == 2


def test_what_a_drift_map_has_moved_is_written_anew_and_the_old_goes_with_its_last_checkpoint(tmp_path):
    store, files = CheckpointStore(tmp_path), StatisticsFiles(tmp_path)
    statistics = ClassStatistics({"full", "pooled"})
    kept = []
    for step in range(4):
        statistics.apply_linear(2 * torch.eye(4), torch.ones(4))
        named = files.write(with_session(statistics, step))
        store.save(step, {"files": named}, files.sums(named))
        files.remove_unused(store.needed())
        kept.append({path.name for path in (tmp_path / "statistics").iterdir()})
        assert len(named) == 1
    assert [len(names) for names in kept] == [1, 2, 2, 2]  # as many as there are checkpoints
    assert equal(read(store.load(3)["files"], tmp_path, statistics), statistics)
    assert len(load_file(next((tmp_path / "statistics").glob("session-3-*")))["classes"]) == 8


def test_a_checkpoint_without_its_statistics_is_not_whole(tmp_path, caplog):
    store, files = CheckpointStore(tmp_path), StatisticsFiles(tmp_path)
    statistics, named = ClassStatistics({"full"}), {}
    for step in range(2):
        named = files.write(with_session(statistics, step))
        store.save(step, {"files": named}, files.sums(named))
    newest = next((tmp_path / "statistics").glob("session-1-*"))
    newest.write_bytes(newest.read_bytes()[:-8])
    assert store.steps() == [0] and "is not whole (../statistics/session-1-" in caplog.text
    with pytest.raises(ValueError, match=r"session-1-.*cannot be read as class statistics"):
        StatisticsFiles(tmp_path).read(named)


def test_other_processes_write_nothing(tmp_path):
    files = StatisticsFiles(tmp_path, writes=False)
    assert files.write(with_session(ClassStatistics(), 0)) == {} and not (tmp_path / "statistics").exists()


# Beside an adapter
@pytest.fixture
def saved(tmp_path):
    head = build_head({"type": "gaussian", "feature_map": "rff", "map_dim": 8}, 4, 4)
    statistics = with_session(with_session(ClassStatistics({"full", "pooled"}), 0), 1)
    found = SavedStatistics(statistics, ("a", "b", "c", "d"), training_state(head))
    save_statistics(tmp_path, found)
    return found


def test_what_lies_beside_an_adapter_comes_back_to_the_bit(saved, tmp_path):
    again = load_statistics(tmp_path)
    assert again.class_names == saved.class_names and equal(again.statistics, saved.statistics)
    assert torch.equal(again.statistics.pooled_scatter(), saved.statistics.pooled_scatter())
    assert again.statistics.sessions == (0, 1) and again.statistics.kinds == {"full", "pooled"}
    assert {"hits", "curves", "map_store.scatter"} <= again.head.keys() and "means" not in again.head
    assert all(torch.equal(again.head[name], tensor) or tensor.isnan().any() for name, tensor in saved.head.items())


def test_an_adapter_without_statistics_says_how_to_get_some(tmp_path):
    with pytest.raises(FileNotFoundError, match="was not asked to --export_statistics"):
        load_statistics(tmp_path)


def facts(**changes):
    known = {
        "format_version": 1,
        "class_names": [*"abcd"],
        "kinds": ["full", "pooled"],
        "rank": 32,
        "sessions": [0, 1],
        "taken_with": "",
        "moved": False,
    }
    return {"class_statistics": json.dumps(known | changes)}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "no file of class statistics"),
        ({"class_statistics": "[" * 100_000}, "cannot be read as class statistics"),
        (facts(format_version=2), "format version 2; this hf_cl reads up to 1"),
        (facts(kinds=["everything"]), "not what hf_cl writes"),
        (facts(rank="8"), "not what hf_cl writes"),
        (facts(class_names=[*"aabc"]), "not what hf_cl writes"),
        (facts(class_names=[*"ab"]), "names 2 classes and has statistics of position 3"),
    ],
)
def test_files_of_strangers_are_refused_by_name(saved, tmp_path, metadata, message):
    path = tmp_path / STATISTICS_FILE
    save_file(load_file(path), path, metadata)
    with pytest.raises(ValueError, match=message) as error:
        load_statistics(tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("spoil", [lambda b: b[:-8], lambda b: b"", lambda b: b"x" * 100])
def test_damaged_files_are_refused_by_name(saved, tmp_path, spoil):
    path = tmp_path / STATISTICS_FILE
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match="cannot be read as class statistics"):
        load_statistics(tmp_path)
