import dataclasses
import json
import os
from types import SimpleNamespace

import pytest
import torch
from example_results import (
    CLASSES,
    ENVIRONMENT,
    base_to_novel_results,
    example_results,
    few_shot_results,
    nasty_results,
    probed_results,
    sessions_of,
    shown_results,
)
from worked_example import MATRIX

from hf_cl.metrics import AccuracyMatrix, SessionCounts
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.display import display_name, duration, percent, shown, size, without_folders
from hf_cl.results.remarks import remarks
from hf_cl.results.results import ProtocolRecord, Results, SessionRecord, Times
from hf_cl.training.environment import environment

ALL = [example_results, few_shot_results, base_to_novel_results, probed_results, nasty_results, shown_results]


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_round_trip(tmp_path, make):
    results = make()
    results.save(tmp_path / "results.json")
    again = Results.load(tmp_path / "results.json")
    assert again == results
    assert again.metrics == results.metrics
    assert list(tmp_path.iterdir()) == [tmp_path / "results.json"]


def test_the_file_has_the_keys_of_its_format(tmp_path):
    example_results().save(tmp_path / "results.json")
    text = (tmp_path / "results.json").read_text()
    values = json.loads(text)
    assert next(iter(values)) == "format_version"
    kept = {"protocol", "seed", "sessions", "test_counts", "test_accuracy", "continual", "environment", "times"}
    matrices = {"accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within"}
    assert kept | matrices | {"metrics", "per_class_accuracy"} <= set(values)
    assert values["metrics"]["final_accuracy"] == pytest.approx(0.61)
    assert values["metrics"]["novel_accuracy"][0] is None
    assert values["per_class_accuracy"] == {"ant": 0.8, "bee": 0.6, "crab": 0.4, "deer": 0.9, "eel": 0.6, "fox": 0.5, "gnu": None}
    second = {"id": 1, "new_class_names": ["deer", "eel"], "num_train": 300, "num_test": 20, "trained": True}
    assert values["sessions"][1] == second | {"kept_images": 0, "temperature": None}
    assert "[0.6, 0.75, 0.5]" in text  # a row of the matrix is a line


def test_a_matrix_becomes_results():
    matrix = AccuracyMatrix()
    counts = SessionCounts([2])
    counts.add(0, torch.eye(2).numpy(), [0, 1])
    matrix.add(counts)
    results = Results(
        protocol=ProtocolRecord(name="class_incremental", dataset="d"),
        seed=0,
        sessions=[SessionRecord(0, ["a", "b"], 2, 2, True)],
        **matrix.fields(),
    )
    assert results.metrics["final_accuracy"] == 1.0
    assert results.per_class_accuracy == {"a": 1.0, "b": 1.0}


BROKEN = [
    (("seed",), "three", r"seed: Input should be a valid integer"),
    (("seed",), True, r"seed: Input should be a valid integer"),
    (("seed",), 1.5, r"seed: "),
    (("sessions", 1, "num_train"), "300", r"sessions\[1\]\.num_train: Input should be a valid integer"),
    (("sessions", 1, "id"), 7, r"sessions must have the ids"),
    (("sessions", 1, "new_class_names"), ["ant", "eel"], r"a class name occurs twice"),
    (("sessions",), [], r"sessions must have the ids"),
    (("accuracy_matrix", 2, 1), float("nan"), r"accuracy_matrix\[2\]\[1\]: Input should be a finite number"),
    (("accuracy_matrix", 2, 1), None, r"accuracy_matrix\[2\]\[1\] is empty; only a session without a new class may"),
    (("accuracy_matrix", 2, 1), 75.0, r"accuracy_matrix\[2\] holds a value outside of 0 to 1"),
    (("accuracy_matrix", 2), [0.6, 0.75], r"accuracy_matrix\[2\] has 2 values, expected 3"),
    (("accuracy_matrix_within",), [[0.9]], r"accuracy_matrix_within has 1 rows, expected 3"),
    (("accuracy_matrix_within",), None, r"either all of accuracy_matrix"),
    (("class_accuracy_matrix", 0), [1.0], r"class_accuracy_matrix must have rows of \[3, 5, 7\]"),
    (("class_accuracy_matrix", 0, 0), 1.5, r"class_accuracy_matrix\[0\]: accuracies are fractions"),
    (("test_counts",), [60, 20], r"test_counts must have 3 values"),
    (("test_counts",), [60, 20, 0], r"each at least 1"),
    (("test_counts_then",), [[60], [60, 20]], r"test_counts_then must have 3 rows"),
    (("test_counts_then",), [[60], [60, 20], [60, 19, 20]], r"test_counts_then must end with test_counts"),
    (("test_accuracy",), {"base": 0.5}, r"either all of accuracy_matrix"),
    (("future_accuracy",), {"previous_accuracy": [0.1], "untrained_accuracy": [0.1, 0.2]}, r"future_accuracy needs"),
    (("future_accuracy",), {"previous_accuracy": [0.1, 2.0], "untrained_accuracy": [0.1, 0.2]}, r"future_accuracy.previous_accuracy: acc"),
    (("comparisons",), {"linear probe": 79.0}, r"comparisons: accuracies are fractions from 0 to 1; got {'linear probe': 79.0}"),
    (("times", "training"), [1.0], r"times.training must have 3 values"),
    (("times", "total"), float("inf"), r"times.total: Input should be a finite number"),
    (("protocol", "index_list"), {"kind": "mine"}, r"protocol.index_list.kind: Input should be 'standard', 'custom' or 'own_draw'"),
    (("protocol", "shotz"), 5, r"protocol.shotz: unknown key"),
    (("test_count",), [1], r"test_count: unknown key\. Did you mean 'test_counts'\?"),
    (("metrics", "final_accuracy"), 0.99, r"metrics.final_accuracy is 0.99, but the matrices give 0.61"),
    (("metrics", "session_accuracy", 1), None, r"metrics.session_accuracy\[1\] is None"),
    (("metrics", "forgetting"), float("nan"), r"metrics.forgetting is nan"),
    (("metrics", "accuracy"), 0.5, r"metrics.accuracy: unknown name"),
    (("per_class_accuracy", "ant"), 1.0, r"per_class_accuracy.ant is 1.0"),
    (("metrics",), None, r"metrics is None"),
    (("method",), "ovor", r"method: Input should be"),
    (("memory",), {"kind": "cuda", "peak_bytes": [1, 2]}, r"memory.peak_bytes must have 3 values"),
    (("memory",), {"kind": "disk", "peak_bytes": [1, 2, 3]}, r"memory.kind: Input should be 'cuda' or 'process'"),
    (("session_confusion",), [[60, 0, 0], [0, 20, 0], [0, 0, 19]], r"session_confusion needs a row per session that sums to"),
    (("confused_pairs",), [[0, 1, 5]], r"session_confusion needs a row per session"),
]


@pytest.mark.parametrize(("key", "value", "message"), BROKEN, ids=lambda part: str(part)[:40])
def test_a_wrong_value_is_refused_by_file_and_key(tmp_path, key, value, message):
    values = json.loads(json.dumps(example_results().to_dict()))
    place = values
    for part in key[:-1]:
        place = place[part]
    place[key[-1]] = value
    path = tmp_path / "results.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trace", [], r"continual.trace: unknown key"),
        ("every", 0.5, r"continual.every: Input should be a valid integer"),
        ("window", [1], r"each window at least 2"),
        ("traces", [[float("nan")]], r"traces\[0\]"),
        ("steps", [3, 2], r"steps must increase"),
    ],
)
def test_wrong_traces_are_refused(tmp_path, key, value, message):
    values = probed_results().to_dict()
    values["continual"][key] = value
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        Results.load(tmp_path / "results.json")


def test_a_missing_key_is_named(tmp_path):
    values = example_results().to_dict()
    del values["test_counts"]
    (tmp_path / "results.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"results.json: test_counts: Field required"):
        Results.load(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format_version": 2}', "has format version 2, this hf_cl reads up to 1; update hf_cl"),
        ('{"format_version": "1"}', "format_version must be a whole number, got '1'"),
        ("{}", "format_version must be a whole number, got None"),
        ("[1]", "holds list, expected"),
        ('{"format_version": 1', "is not valid JSON"),
        ("\udcff", "is not valid JSON"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        Results.load(path)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        Results.load(tmp_path / "results.json")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    example_results().save(path)
    before = path.read_bytes()

    def disk_full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        example_results(seed=4).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_the_file_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    path, seen = tmp_path / "x", []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (seen.append(path.exists()), sync(descriptor)))
    write_atomically(path, "text")
    assert seen == [False, True]  # the file, then its folder
    assert path.read_text() == "text"


def test_results_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        example_results().seed = 5


def test_forward_transfer_needs_future_accuracy():
    future = {"previous_accuracy": [0.5, 0.4], "untrained_accuracy": [0.4, 0.4]}
    assert example_results(future_accuracy=future).metrics["forward_transfer"] == pytest.approx(0.05)
    assert example_results().metrics["forward_transfer"] is None


def test_environment():
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), num_processes=2, mixed_precision="bf16", compiled_by="no", deterministic=False
    )
    seen = environment(accelerator, "google/vit", "abc")
    assert seen["torch"] == torch.__version__
    assert (seen["num_processes"], seen["mixed_precision"], seen["backbone"], seen["backbone_revision"]) == (2, "bf16", "google/vit", "abc")
    assert seen["devices"][0].startswith("CPU, ")
    assert set(seen) == set(ENVIRONMENT)
    assert example_results(environment=seen).environment == seen


def test_numbers_for_people():
    assert [percent(v) for v in (0.61, None, 0.0, -0.125, -1e-9, 0.123456)] == ["61.00", "–", "0.00", "-12.50", "0.00", "12.35"]
    assert [duration(v) for v in (0.04, 59.94, 245, 7380)] == ["0.0 s", "59.9 s", "4 min 05 s", "2 h 03 min"]
    assert [size(v) for v in (400_000, 12_300_000, 999_000_000, 12_340_000_000)] == ["0.4 MB", "12 MB", "999 MB", "12.3 GB"]
    assert [shown(v) for v in (None, True, [], [1, 2], 0.5)] == ["–", "yes", "–", "1, 2", "0.5"]


def test_names_for_people():
    assert display_name("a\r\n\tb\x00c\u2028d") == "a b c d"
    assert display_name("ab\u202edc") == "abdc"
    assert display_name("👩🏽‍🔬") == "👩🏽‍🔬"
    assert display_name("broken \udc80") == "broken \ufffd"
    assert display_name(" \n ") == "(blank)"
    assert len(display_name("x" * 10_000)) == 80
    assert display_name("x" * 80) == "x" * 80
    assert display_name("y" * 81).endswith("…")
    assert display_name(" " * 400 + "far away").endswith("…")


def test_folders_of_this_machine_are_not_published():
    assert without_folders("/home/someone/photos") == "photos"
    assert without_folders("~/photos") == without_folders("./a/photos") == "photos"
    assert without_folders("google/vit-base") == "google/vit-base"
    assert shown(["/home/someone/a", "b/c"]) == "a, b/c"


def test_remarks_say_what_was_trained():
    assert remarks(example_results())[0] == "Every session was trained."
    assert remarks(few_shot_results())[0].startswith("Nothing was trained after session 0")
    sessions = sessions_of(CLASSES)
    sessions[1] = dataclasses.replace(sessions[1], trained=False)
    assert remarks(example_results(sessions=sessions))[0] == "No optimizer step was taken in session 1."
    assert not any("trained" in sentence for sentence in remarks(base_to_novel_results()))


def test_every_number_has_a_name():
    results = example_results(probes={"drift": {"norm": 3, "all": [1.0], "done": True}})
    numbers = results.numbers
    assert (
        numbers["session_accuracy[2]"] == results.metrics["session_accuracy"][2] and numbers["forgetting"] == results.metrics["forgetting"]
    )
    assert numbers["drift.norm"] == 3.0 and "drift.done" not in numbers and "session_accuracy" not in numbers


def test_remarks_say_which_sessions_had_one_class():
    sessions = sessions_of([CLASSES[0], ["deer"], ["eel", "fox", "gnu"]])
    first, *others = remarks(example_results(sessions=sessions, class_accuracy_matrix=[[1.0] * 3, [1.0] * 4, [1.0] * 7]))
    assert first.startswith("Every session was trained; session 1 brought one new class, where a loss over")
    assert not any("one new class" in sentence for sentence in (*others, *remarks(example_results())))


def test_many_sessions_are_named_by_their_ends():
    sessions = sessions_of([[f"class {t}"] for t in range(40)])
    few = [dataclasses.replace(session, trained=session.id % 2 == 0) for session in sessions]
    rows = [[1.0] * (t + 1) for t in range(40)]
    matrices = dict.fromkeys(("accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within", "class_accuracy_matrix"), rows)
    run = example_results(sessions=sessions, test_counts=[20] * 40, times=None, **matrices)
    assert "; sessions 0 to 39 brought one new class" in remarks(run)[0]
    every_other = remarks(dataclasses.replace(run, sessions=few))[0]
    assert every_other.startswith("No optimizer step was taken in sessions 1, 3, 5") and "39; sessions 0, 2, 4" in every_other


def test_remarks_say_how_many_images_were_left_out():
    protocol = dataclasses.replace(example_results().protocol, left_out_images=3)
    assert "left out (skip_bad_images): 3." in " ".join(remarks(example_results(protocol=protocol)))
    assert "left out" not in " ".join(remarks(example_results()))


def test_remarks_say_what_is_not_comparable():
    assert "not by the standard index lists" in " ".join(remarks(few_shot_results()))
    protocol = ProtocolRecord(name="p", dataset="d", class_order="/home/someone/order.txt", class_order_seed=4, validation_fraction=0.1)
    text = " ".join(remarks(example_results(protocol=protocol)))
    assert "10 % of the training images were kept out for validation." in text
    assert "class order 'order.txt' with class_order_seed 4" in text
    assert "someone" not in text


def test_negative_times_are_refused():
    with pytest.raises(ValueError, match="none negative"):
        example_results(times=Times([1.0, -1.0, 1.0], [1.0] * 3, 3.0))


def test_matrix_rows_are_read_as_they_were_written(tmp_path):
    example_results().save(tmp_path / "r.json")
    assert Results.load(tmp_path / "r.json").accuracy_matrix == MATRIX
