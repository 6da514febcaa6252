from __future__ import annotations

import hashlib
import logging

import numpy as np
import pytest

from hf_cl.scenarios import DataError, few_shot_class_incremental
from hf_cl.scenarios import session_lists as session_lists_module


def write_lists(folder, lists):
    folder.mkdir(parents=True, exist_ok=True)
    for k, lines in enumerate(lists, start=1):
        (folder / f"session_{k}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def rows_of(source, sizes, shots, seed=0):
    """Rows for each session: all of the first, `shots` drawn for the later ones."""
    random = np.random.default_rng(seed)
    rows, label = [], 0
    for t, size in enumerate(sizes):
        parts = [np.flatnonzero(source.train.labels == label + i) for i in range(size)]
        rows.append([int(row) for part in parts for row in (part if t == 0 else random.permutation(part)[:shots])])
        label += size
    return rows


@pytest.fixture
def source(make_source):
    return make_source([12, 11, 10, 9, 8, 7], [2] * 6, name="owner/Mini-Birds")


@pytest.fixture
def rows(source):
    return rows_of(source, [2, 2, 2], 5)


def run(source, folder, shots=5):
    return few_shot_class_incremental(source, 2, 2, shots=shots, index_list=folder)


@pytest.mark.parametrize("subfolder", ["", "mini_birds", "Mini-Birds"])
def test_sessions_are_exactly_the_listed_rows(source, rows, tmp_path, subfolder):
    write_lists(tmp_path / subfolder, rows)
    stream = run(source, tmp_path)
    assert [session.train.indices.tolist() for session in stream] == rows
    assert [sorted(set(session.train.labels)) for session in stream] == [[0, 1], [2, 3], [4, 5]]
    assert stream.protocol["class_order"] == "natural"


@pytest.mark.parametrize("prefix", ["MINI-Birds/images/", ""])
def test_names_are_found_by_class_folder_and_file(source, rows, tmp_path, prefix):
    names = [[prefix + source.train.file_names[row].removeprefix("train/") for row in part] for part in rows]
    assert [session.train.indices.tolist() for session in run(source, write_lists(tmp_path, names))] == rows


def test_identity_is_the_sha256_of_all_stripped_lines(source, rows, tmp_path):
    write_lists(tmp_path, rows)
    text = "".join(f"{row}\n" for part in rows for row in part)
    (tmp_path / "session_2.txt").write_bytes(b"\r\n".join(b"  %d " % row for row in rows[1]) + b"\r\n\r\n")
    assert run(source, tmp_path).protocol["index_list"] == {"kind": "custom", "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_known_lists_are_standard(source, rows, tmp_path, monkeypatch):
    digests = [hashlib.sha256("".join(f"{row}\n" for part in parts for row in part).encode()).hexdigest() for parts in (rows, rows[1:])]
    monkeypatch.setattr(session_lists_module, "STANDARD_LISTS", {"mini_birds": tuple(digests)})
    assert run(source, write_lists(tmp_path, rows)).protocol["index_list"] == {"kind": "standard", "sha256": digests[0]}

    shuffled = write_lists(tmp_path, [rows[0][::-1], *rows[1:]])
    assert run(source, shuffled).protocol["index_list"]["kind"] == "standard"
    assert run(source, shuffled).protocol["index_list"]["sha256"] != digests[0]

    cut = write_lists(tmp_path, [rows[0][1:], *rows[1:]])
    assert run(source, cut).protocol["index_list"]["kind"] == "custom"

    changed = write_lists(tmp_path, [rows[0], rows[1][::-1], rows[2]])
    assert run(source, changed).protocol["index_list"]["kind"] == "custom"


def test_the_published_digests_are_in_place():
    assert {name: (whole[:8], later[:8]) for name, (whole, later) in session_lists_module.STANDARD_LISTS.items()} == {
        "cifar100": ("855b0b91", "1333de08"),
        "mini_imagenet": ("9fbb1b74", "327b5c6e"),
        "cub200": ("b3570133", "5f21c503"),
    }
    assert all(len(digest) == 64 for pair in session_lists_module.STANDARD_LISTS.values() for digest in pair)


def test_an_incomplete_base_session_is_reported(source, rows, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run(source, write_lists(tmp_path, [rows[0][3:], *rows[1:]]))
    assert "session_1.txt lists 20 of the 23 training images of its classes" in caplog.text


def test_lists_may_bring_another_order_of_classes(source, tmp_path):
    parts = {label: np.flatnonzero(source.train.labels == label).tolist() for label in range(6)}
    lists = [parts[5] + parts[0], parts[3][:5] + parts[2][:5], parts[1][:5] + parts[4][:5]]
    stream = run(source, write_lists(tmp_path, lists))
    assert stream.class_names == tuple(source.class_names[label] for label in (0, 5, 2, 3, 1, 4))
    assert stream.protocol["class_order"] == "index_list"
    for session in stream:
        names = [stream.class_names[label] for label in session.train.labels]
        assert names == [source.class_names[label] for label in source.train.labels[session.train.indices]]
    for test in stream.sessions[-1].tests:
        names = {stream.class_names[label] for label in test.data.labels}
        assert names == {source.class_names[label] for label in source.test.labels[test.data.indices]}


def test_the_counts_of_cifar100(make_source, tmp_path):
    source = make_source([500] * 100, [100] * 100, name="uoft-cs/cifar100")
    sizes = [60] + [5] * 8
    stream = few_shot_class_incremental(
        source, 60, 5, shots=5, index_list=write_lists(tmp_path / "cifar100", rows_of(source, sizes, 5)).parent
    )
    assert [len(session.train) for session in stream] == [30_000] + [25] * 8


def spoiled(rows, session, position, value):
    changed = [list(part) for part in rows]
    changed[session][position] = value
    return changed


def test_a_row_that_is_not_there(source, rows, tmp_path):
    with pytest.raises(DataError, match=r"session_2\.txt, line 4: row 57 is not there: it has 57 rows, 0\.\.56"):
        run(source, write_lists(tmp_path, spoiled(rows, 1, 3, 57)))


def test_a_row_of_the_test_part_is_not_a_training_row(make_source, tmp_path):
    source = make_source([12, 11, 10, 9, 8, 7])
    lists = rows_of(source, [2, 2, 2], 5)
    train_rows = [[int(source.train.indices[i]) for i in part] for part in lists]
    train_rows[2][0] = int(source.test.indices[-1])
    with pytest.raises(DataError, match=r"session_3\.txt, line 1: row \d+ is not there: the row exists but is none of the training images"):
        run(source, write_lists(tmp_path, train_rows))


def test_an_image_listed_twice_names_both_lines(source, rows, tmp_path):
    with pytest.raises(DataError, match=rf"session_2\.txt, line 3: '{rows[1][0]}' is the same image as .*session_2\.txt, line 1"):
        run(source, write_lists(tmp_path, spoiled(rows, 1, 2, rows[1][0])))


def test_a_class_in_two_sessions_names_both_lines(source, rows, tmp_path):
    unused = next(int(row) for row in np.flatnonzero(source.train.labels == 2) if row not in rows[1])
    with pytest.raises(
        DataError, match=r"session_3\.txt, line 2: class 'class 002' is in two sessions; .*session_2\.txt, line 1 has it too"
    ):
        run(source, write_lists(tmp_path, spoiled(rows, 2, 1, unused)))


def test_another_number_of_shots_names_the_classes(source, rows, tmp_path):
    write_lists(tmp_path, [rows[0], rows[1][1:], rows[2]])
    with pytest.raises(DataError, match=r"session_2\.txt should hold 5 images of each of its 2 classes; it holds 4 of 'class 002'"):
        run(source, tmp_path)
    with pytest.raises(DataError, match=r"should hold 3 images .* it holds 4 of 'class 002', 5 of 'class 003'"):
        run(source, tmp_path, shots=3)


def test_rows_in_another_order_are_recognised(source, tmp_path):
    with pytest.raises(
        DataError, match=r"session_1\.txt holds images of 6 classes, the session has 2.*not in the order the lists were made for"
    ):
        run(source, write_lists(tmp_path, [range(23), range(23, 33), range(33, 43)]))


def test_another_number_of_files(source, rows, tmp_path):
    with pytest.raises(DataError, match=r"holds 4 session files; 6 classes in these sizes are 3 sessions"):
        run(source, write_lists(tmp_path, [*rows, [1]]))


def test_a_list_that_is_no_text_is_refused(source, rows, tmp_path):
    write_lists(tmp_path, rows)
    (tmp_path / "session_3.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"session_3\.txt cannot be read"):
        run(source, tmp_path)
