"""A collection over some months, by commands alone: what somebody does with photos that come, go, move and change their names."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.results.display import percent
from hf_cl.results.results import Results

NAMES = ["bee", "cat", "cow", "dog", "eel", "elk", "fox", "hen", "owl", "pig", "rat", "yak"]


def photo(root, name, number, shade=0):
    """A picture of one colour for each class, with noise; `shade` makes another picture of the same class."""
    (root / name).mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, name))
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    noise = np.random.default_rng((seed, number, shade)).integers(-9, 9, (24, 24, 3))
    Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")


class Story(NamedTuple):
    """What is there in the end."""

    home: Path
    photos: Path
    run: Path
    results: list[Results]
    """After each command."""


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Two sessions of six classes; one that sorts first, a picture replaced, one deleted, the folder moved; then the pictures that came."""
    home = tmp_path_factory.mktemp("story")
    run, photos = home / "runs" / "photos", home / "photos"

    def train(dataset, *more):
        command = [
            "train",
            "frozen",
            "--config",
            "own_images",
            "--backbone",
            "demo",
            "--num_base_classes",
            "6",
            "--classes_per_session",
            "6",
        ]
        done = CliRunner().invoke(app, [*command, "--dataset", str(dataset), "--output_dir", str(run), "--cpu", *more])
        assert done.exit_code == 0, done.stderr
        return Results.load(run / "results.json")

    for name in NAMES:
        for number in range(6):
            photo(photos, name, number)
    results = [train(photos)]

    record = [json.loads(line) for line in (run / "pictures.jsonl").read_text().splitlines()]
    deleted = next(row["name"] for row in record if row["part"] == "test" and row["class_name"] == "cat")
    replaced = next(row["name"] for row in record if row["part"] == "train" and row["class_name"] == "fox")
    (photos / deleted).unlink()
    photo(photos, "fox", int(replaced.split("/")[-1].removesuffix(".png")), shade=1)
    for number in range(6):
        photo(photos, "ant", number)
    moved = photos.rename(home / "another disk")
    results.append(train(moved, "--resume", "auto"))

    for number in range(6, 16):
        photo(moved, "dog", number)
    results.append(train(moved, "--resume", "auto", "--session_from", "new_pictures"))
    return Story(home, moved, run, results)


def parts(run):
    """Of each (session, part) the pictures of the run's record that are there now, by class."""
    rows = [json.loads(line) for line in (run / "pictures.jsonl").read_text().splitlines()]
    return {
        (session, part): Counter(row["class_name"] for row in rows if (row["session"], row["part"]) == (session, part))
        for session in range(4)
        for part in ("train", "test")
    }


def words(run):
    """The text of the report."""
    page = (run / "report.html").read_text(encoding="utf-8")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.split("<body", 1)[1])).split()).replace(" , ", ", ")


def test_a_class_that_sorts_first_comes_behind_and_the_folder_may_move(story):
    first, second, third = story.results
    assert [session.new_class_names for session in first.sessions] == [NAMES[:6], NAMES[6:]]
    assert [session.new_class_names for session in second.sessions] == [NAMES[:6], NAMES[6:], ["ant"]]
    assert [session.new_class_names for session in third.sessions] == [NAMES[:6], NAMES[6:], ["ant"], []]
    assert first.test_counts == [6, 6] and [session.num_train for session in second.sessions] == [30, 30, 5]


def test_the_deleted_picture_is_named_and_the_replaced_one_moves_no_other(story):
    _, second, third = story.results
    fox_is_tested = parts(story.run)[1, "test"]["fox"] - 1  # the picture that replaced another one is drawn by its content
    assert second.test_counts == [5, 6 + fox_is_tested, 1]
    assert third.test_counts_then is not None and third.test_counts_then[:2] == [[6], [6, 6]]


def test_new_pictures_of_known_classes_make_a_session_of_their_own(story):
    third, found = story.results[2], parts(story.run)
    again, fox_is_tested = third.sessions[3], found[1, "test"]["fox"] - 1
    assert again.num_train + again.num_test == 10 + 1 - fox_is_tested
    assert found[3, "train"] + found[3, "test"] == Counter(dog=10, fox=1 - fox_is_tested)
    assert third.test_counts[3] == again.num_test and (third.accuracy_matrix[3][3] is None) == (again.num_test == 0)


def test_the_report_explains_every_number(story):
    third, text = story.results[2], words(story.run)
    assert "13 classes in 4 sessions" in text
    assert "session 0 on 5 where it had 6" in text and "Session 3 brought no new class, but more images of known ones" in text
    table = text[text.index("new classes train test") : text.index("Memory:")]
    rows = re.findall(r"(\d) (\S+) (\S+) ((?:\w+, )*\w+|none: more images of known classes) (?:not trained )?(\d+) (\d+|–) ", table)
    shown = {int(row[0]): row for row in rows}
    for session in third.sessions:
        _, accuracy, _, names, train, test = shown[session.id]
        assert accuracy == percent(third.metrics["session_accuracy"][session.id])
        assert names == (", ".join(session.new_class_names) or "none: more images of known classes")
        assert (int(train), test) == (session.num_train, str(session.num_test) if session.num_test else "–")
    for name in ("final_accuracy", "average_incremental_accuracy", "forgetting"):
        assert percent(third.metrics[name]) in text
    row, counts = third.accuracy_matrix[3], third.test_counts
    right = sum(round(value * count) for value, count in zip(row, counts, strict=True) if value is not None)
    assert third.metrics["final_accuracy"] == pytest.approx(right / sum(counts))


def test_a_renamed_class_and_a_prediction_over_the_folder(story, call):
    renamed = story.home / "renamed"
    assert call("classes", story.run, "--rename", "cow=ox", "--output_dir", renamed).exit_code == 0
    (story.photos / "dog" / "broken.png").write_bytes(b"no picture")
    done = call("predict", renamed, story.photos, "--format", "csv", "--top_k", 1, "--device", "cpu")
    (story.photos / "dog" / "broken.png").unlink()
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.exit_code == 1 and "1 of 88 files could not be read" in done.stderr
    assert len(rows) == 88 == 13 * 6 - 1 + 10 + 1
    bad = [row for row in rows if row["error"]]
    assert [Path(row["file"]).name for row in bad] == ["broken.png"]
    named = Counter((Path(row["file"]).parent.name, row["class_1"]) for row in rows if not row["error"])
    assert {name for folder, name in named if folder == "cow"} <= {"ox", *NAMES} and named["cow", "ox"] >= 5 and not named["cow", "cow"]
    right = sum(count for (folder, name), count in named.items() if name == {"cow": "ox"}.get(folder, folder))
    tested = call("evaluate", story.run, "--dataset", story.photos, "--include_trained", "--json")
    assert right / 87 == pytest.approx(json.loads(tested.stdout)["accuracy"])
