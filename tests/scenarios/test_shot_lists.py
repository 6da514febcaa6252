from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hf_cl.scenarios import DataError, few_shot_class_incremental_tuning


@pytest.fixture
def source(make_source):
    return make_source([8, 7, 6, 5], [1] * 4, name="owner/DTD")


@pytest.fixture
def lines(source):
    """Five candidates of each class, classes interleaved."""
    random = np.random.default_rng(1)
    rows = [random.permutation(np.flatnonzero(source.train.labels == label))[:5] for label in range(4)]
    return [(label, int(rows[label][i])) for i in range(5) for label in range(4)]


def write(folder, lines, name="dtd"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.txt").write_text("".join(f"{label} {row}\n" for label, row in lines))
    return folder


def run(source, folder, shots=3):
    return few_shot_class_incremental_tuning(source, 2, 1, shots=shots, index_list=folder)


def test_the_first_shots_of_each_class_are_taken(source, lines, tmp_path):
    stream = run(source, write(tmp_path, lines))
    assert [len(session.train) for session in stream] == [6, 3, 3]
    for session in stream:
        for label in range(session.first_new_class, len(session.class_names)):
            listed = [row for listed_label, row in lines if listed_label == label]
            assert session.train.of_classes([label]).indices.tolist() == listed[:3]
    text = "".join(f"{label} {row}\n" for label, row in lines)
    assert stream.protocol["index_list"] == {"kind": "custom", "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_classes_and_images_may_be_names(source, lines, tmp_path):
    named = [(source.class_names[label], source.train.file_names[row]) for label, row in lines]
    expected = [session.train.indices.tolist() for session in run(source, write(tmp_path / "numbers", lines))]
    assert [session.train.indices.tolist() for session in run(source, write(tmp_path / "names", named))] == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("4 0", r"dtd\.txt, line 2: there is no class 4; labels are 0\.\.3"),
        ("class_001 0", r"dtd\.txt, line 2: 'class_001' is no class of the data set\. Did you mean 'class 001'"),
        ("0 26", r"dtd\.txt, line 2: row 26 is not there"),
        ("12", r"dtd\.txt, line 2: expected a class and an image, found '12'"),
    ],
)
def test_faulty_lines_are_named(source, lines, tmp_path, line, message):
    write(tmp_path, lines)
    first, _, *rest = (tmp_path / "dtd.txt").read_text().splitlines()
    (tmp_path / "dtd.txt").write_text("\n".join([first, line, *rest]))
    with pytest.raises(DataError, match=message):
        run(source, tmp_path)


def test_an_image_of_another_class_is_named(source, lines, tmp_path):
    (label, row), *rest = lines
    with pytest.raises(DataError, match=rf"line 1: image {row} is of class 'class 000' \(label 0\), not '1'"):
        run(source, write(tmp_path, [(label + 1, row), *rest]))


def test_an_image_listed_twice_is_named(source, lines, tmp_path):
    with pytest.raises(DataError, match=r"line 21: .* is the same image as .*dtd\.txt, line 1"):
        run(source, write(tmp_path, [*lines, lines[0]]))


def test_too_few_candidates_are_counted(source, lines, tmp_path):
    with pytest.raises(DataError, match=r"1 classes have fewer images than the 5 shots asked for: 'class 000' has 4"):
        run(source, write(tmp_path, lines[1:]), shots=5)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run(source, tmp_path, shots=0)


def test_a_missing_list_is_named(source, lines, tmp_path):
    with pytest.raises(DataError, match=r"holds neither dtd\.txt nor dtd/dtd\.txt"):
        run(source, write(tmp_path, lines, name="DescribableTextures"))
