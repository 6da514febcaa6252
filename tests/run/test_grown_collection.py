"""A run goes on with a collection that has changed: new classes, one that sorts first, another place, other pictures."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.results.remarks import remarks
from hf_cl.results.results import Results
from hf_cl.results.table import session_table
from hf_cl.run import parse_settings, run
from hf_cl.run.trainer import ContinualTrainer

COLOURS = {"ant": (240, 240, 240), "cat": (220, 30, 30), "dog": (30, 220, 30), "hen": (30, 30, 220)}


def photo(root, name, number):
    (root / name).mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(-20, 20, (24, 24, 3))
    Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")


def photos(root, *classes, count=5):
    for name in classes:
        for number in range(count):
            photo(root, name, number)
    return root


def go(folder, dataset, method="nearest_class_mean", **more):
    settings = {"dataset": dataset, "output_dir": folder, "num_base_classes": 2, "classes_per_session": 1, "class_order": "natural", **more}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return run(parse_settings(METHODS[method], method, [*flags, "--cpu"]))


def record(folder):
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


def held(folder, name):
    return [row["name"] for row in record(folder) if row["part"] == "test" and row["class_name"] == name]


def test_new_classes_follow_wherever_they_sort_and_the_folder_may_move(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog", "hen")
    first = go(tmp_path / "run", root)
    assert first.class_names == ["cat", "dog", "hen"]
    photos(root, "ant")
    moved = root.rename(tmp_path / "elsewhere")
    order = tmp_path / "order.txt"
    order.write_text("cat\ndog\nhen\nant\n")
    grown = go(tmp_path / "run", moved, resume="auto", class_order=order, strict_data=True)
    assert [session.new_class_names for session in grown.sessions] == [["cat", "dog"], ["hen"], ["ant"]]
    assert grown.test_counts_then is None
    assert go(tmp_path / "run", moved, resume="auto").class_names == ["cat", "dog", "hen", "ant"]
    assert Results.load(tmp_path / "run" / "results.json").metrics["final_accuracy"] == 1
    rows = record(tmp_path / "run")
    assert sorted({row["name"] for row in rows if row["part"] == "train" and row["class_name"] == "ant"}) != []
    assert len(rows) == 20


def test_a_taught_class_that_is_gone_is_named(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog")
    go(tmp_path / "run", root)
    (root / "cat").rename(root / "tabby")
    with pytest.raises(ValueError, match="taught has no images now: cat"):
        go(tmp_path / "run", root, resume="auto")


def test_known_pictures_keep_their_side_and_one_that_is_gone_is_named(tmp_path, caplog):
    root, folder = photos(tmp_path / "photos", "cat", "dog", count=10), tmp_path / "run"
    go(folder, root)
    before = {row["content"]: row for row in record(folder)}
    lost, *kept = held(folder, "cat")
    assert len(kept) == 1
    (root / lost).unlink()
    replaced = next(row["name"] for row in before.values() if row["part"] == "train" and row["class_name"] == "dog")
    (root / replaced).unlink()
    Image.new("RGB", (24, 24), (0, 200, 0)).save(root / replaced)  # as many pictures as before, another one among them
    for number in range(100, 130):
        photo(root, "dog", number)
    (root / held(folder, "dog")[0]).rename(root / "dog" / "zzz.png")
    photos(root, "ant")
    with pytest.raises(ValueError, match=rf"--strict_data: .*: 2 gone \(.*test: {lost}.*\), \d\d new \("):
        go(folder, root, resume="auto", strict_data=True)
    with caplog.at_level(logging.WARNING):
        grown = go(folder, root, resume="auto")
    assert f"Gone: 1 picture that session 0 was tested on: {lost}. From now on its column is the accuracy on" in caplog.text
    after = {row["content"]: row for row in record(folder)}
    assert all(after[content]["part"] == row["part"] for content, row in before.items())
    new = {content: row for content, row in after.items() if content not in before and row["class_name"] == "dog"}
    assert {row["part"] for row in new.values()} == {"test"}  # what a session that has ended did not train on is not called trained on
    assert 1 <= len(new) <= 14
    left = 3 + len(new)
    assert grown.test_counts == [left, 1] and grown.test_counts_then == [[4], [left, 1]]
    assert f"0 ({left}, was 4)" in [str(column.header) for column in session_table(grown).columns]
    assert any(f"session 0 on {left} where it had 4" in sentence for sentence in remarks(grown))
    loaded = Results.load(folder / "results.json")
    assert loaded.metrics["final_accuracy"] == pytest.approx(np.average(loaded.accuracy_matrix[-1], weights=[left, 1]))
    assert loaded.metrics["session_accuracy"][0] == loaded.accuracy_matrix[0][0]


def test_a_session_without_a_test_picture_is_refused(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog", "hen")
    go(tmp_path / "run", root)
    (root / held(tmp_path / "run", "hen")[0]).unlink()
    with pytest.raises(ValueError, match="Session 1 of the run was tested on 1 images, and none is left"):
        go(tmp_path / "run", root, resume="auto")


def test_a_picture_that_changes_sides_of_the_own_split_is_left_out(tmp_path, caplog):
    root = tmp_path / "photos"
    photos(root / "train", "cat", "dog")
    for name in ("cat", "dog"):
        photo(root / "test", name, 50)
        photo(root / "test", name, 51)
    go(tmp_path / "run", root)
    (root / "train" / "cat" / "3.png").rename(root / "test" / "cat" / "3.png")
    shutil.rmtree(root / "train" / "dog")  # a session that has ended needs no training images, of one class or all
    photos(root / "train", "ant")
    photo(root / "test", "ant", 50)
    with caplog.at_level(logging.WARNING):
        grown = go(tmp_path / "run", root, resume="auto")
    assert "pictures that were trained on are not tested on: 1 left out: " in caplog.text and "cat/3.png" in caplog.text
    assert grown.test_counts == [4, 1]


@pytest.fixture
def stopping(monkeypatch):
    """Stops a run after its first checkpoint inside session 1."""
    write = ContinualTrainer.checkpoint

    def checkpoint(self):
        write(self)
        if self.position.session == 1 and self.position.begun:
            raise RuntimeError("stopped")

    def stop(*arguments, **settings):
        with monkeypatch.context() as patched:
            patched.setattr(ContinualTrainer, "checkpoint", checkpoint)
            with pytest.raises(RuntimeError, match="stopped"):
                go(*arguments, **settings)

    return stop


def test_a_run_that_stopped_inside_a_session_goes_on_when_a_class_sorts_earlier(tmp_path, stopping):
    root, folder = photos(tmp_path / "photos", "cat", "dog", "hen", count=10), tmp_path / "run"
    settings = {"method": "linear_probe", "epochs": 2, "batch_size": 4, "checkpoint_steps": 1}
    stopping(folder, root, **settings)
    assert {row["session"] for row in record(folder)} == {0, 1}
    photos(root, "ant")
    photo(root, "hen", 99)
    with pytest.raises(ValueError, match=r"Session 1 of the run had 8 training .* Inside a session its images stay as they are"):
        go(folder, root, resume="auto", **settings)
    (root / "hen" / "99.png").unlink()
    grown = go(folder, root, resume="auto", **settings)
    assert [session.new_class_names for session in grown.sessions] == [["cat", "dog"], ["hen"], ["ant"]]


def test_an_exemplar_whose_picture_is_gone_is_refused_by_name_unless_copies_were_kept(tmp_path):
    memory = {"memory": "{type: exemplars, per_class: 2}", "epochs": 1, "batch_size": 4}
    root = photos(tmp_path / "photos", "cat", "dog", "hen")
    kept = {**memory, "memory_dir": tmp_path / "kept"}
    for folder, settings in (("plain", memory), ("copies", kept)):
        results = go(tmp_path / folder, root, "linear_probe", **settings)
        assert [session.kept_images for session in results.sessions] == [4, 6]
    assert len(list((tmp_path / "kept").glob("*.png"))) == 6
    photos(root, "ant", count=7)
    for path in (root / "dog").iterdir():  # all training pictures of a taught class are gone; its test picture stays
        if path.name not in {Path(name).name for name in held(tmp_path / "plain", "dog")}:
            path.unlink()
    for number in range(20, 26):  # others have come in their place
        photo(root, "dog", number)
    order = tmp_path / "order.txt"
    order.write_text("cat\ndog\nhen\nant\n")
    with pytest.raises(ValueError, match=r"2 of the 6 exemplars .* are gone: .*dog/\d\.png \(class dog, session 0\).*--memory_dir"):
        go(tmp_path / "plain", root, "linear_probe", **memory, resume="auto", class_order=order)
    grown = go(tmp_path / "copies", root, "linear_probe", **kept, resume="auto", class_order=order)
    assert [session.kept_images for session in grown.sessions] == [4, 6, 8]


def test_domains_come_one_after_the_other_from_one_command_and_a_run_goes_on_with_their_splits(tmp_path):
    """The same classes in two folders: exemplars of the first are trained on in the second; new pictures move none to another side."""
    first, second = photos(tmp_path / "photos", "cat", "dog"), tmp_path / "sketches"
    for name, number in ((name, number) for name in ("cat", "dog") for number in range(50, 57)):
        photo(second, name, number)
    settings = {"protocol": "domain_incremental", "targets": second, "memory": "{type: exemplars, per_class: 2}", "epochs": 1}
    results = go(tmp_path / "run", first, "linear_probe", **settings)
    assert [session.new_class_names for session in results.sessions] == [["cat", "dog"], []]
    assert [session.kept_images for session in results.sessions] == [4, 8]
    assert results.accuracy_matrix is not None and [len(row) for row in results.accuracy_matrix] == [1, 2]
    before = {(row["session"], row["part"], row["content"]) for row in record(tmp_path / "run")}
    for number in range(60, 66):
        photo(second, "cat", number)
    go(tmp_path / "run", first, "linear_probe", **settings, resume="auto")
    after = {(row["session"], row["part"], row["content"]) for row in record(tmp_path / "run")}
    assert before <= after
    tested = {content for _, part, content in after if part == "test"}
    assert not tested & {content for _, part, content in after if part == "train"}


def test_a_few_shot_run_goes_on_with_its_shots_and_its_tests(tmp_path):
    root, flags = photos(tmp_path / "photos", "cat", "dog", "hen", count=10), {"protocol": "few_shot_class_incremental", "shots": 2}
    first = go(tmp_path / "run", root, **flags)
    assert first.test_counts == [4, 2] and [session.num_train for session in first.sessions] == [16, 2]
    again = go(tmp_path / "run", root, resume="auto", strict_data=True, **flags)  # pictures that were not drawn are no new ones
    assert again.test_counts == [4, 2]
    photos(root, "ant", count=10)
    grown = go(tmp_path / "run", root, resume="auto", **flags)
    assert [session.new_class_names for session in grown.sessions] == [["cat", "dog"], ["hen"], ["ant"]]
    assert grown.test_counts == [4, 2, 2] and grown.sessions[2].num_train == 2


def test_an_online_run_from_one_command_is_asked_to_go_on_and_knows_its_stream(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog", "hen", "ant")
    settings = {"epochs": 1, "batch_size": 2, "loss_scope": "seen", "probes": "{prequential: {}, anytime_accuracy: {every_images: 5}}"}
    for protocol, options in (("class_incremental", "{online: true}"), ("si_blurry", "{num_sessions: 2}")):
        stream = {"protocol": protocol, "protocol_options": options, "class_order_seed": 4}
        first = go(tmp_path / protocol, root, "linear_probe", **settings, **stream)
        again = go(tmp_path / protocol, root, "linear_probe", **settings, **stream, resume="auto")
        assert again.sessions == first.sessions and again.probes == first.probes and again.accuracy_matrix == first.accuracy_matrix
        assert sorted(first.class_names) == ["ant", "cat", "dog", "hen"] and first.probes["prequential"]["accuracy"] is not None
    with pytest.raises(ValueError, match=r"protocol si_blurry has no 'num_session'; of its own .*Did you mean 'num_sessions'"):
        go(tmp_path / "mistyped", root, "linear_probe", **settings, protocol="si_blurry", protocol_options="{num_session: 2}")
