"""A finished run goes on with a collection that has a new class, one that sorts first, in another place."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.results.results import Results
from hf_cl.run import parse_settings, run

COLOURS = {"ant": (240, 240, 240), "cat": (220, 30, 30), "dog": (30, 220, 30), "hen": (30, 30, 220)}


def photos(root, *classes):
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(5):
            noise = np.random.default_rng(number).integers(-20, 20, (24, 24, 3))
            Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def go(folder, dataset, **more):
    settings = {"dataset": dataset, "output_dir": folder, "num_base_classes": 2, "classes_per_session": 1, "class_order": "natural", **more}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return run(parse_settings(METHODS["nearest_class_mean"], "nearest_class_mean", [*flags, "--cpu"]))


def test_new_classes_follow_wherever_they_sort_and_the_folder_may_move(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog", "hen")
    first = go(tmp_path / "run", root)
    assert first.class_names == ["cat", "dog", "hen"]
    photos(root, "ant")
    moved = root.rename(tmp_path / "elsewhere")
    order = tmp_path / "order.txt"
    order.write_text("cat\ndog\nhen\nant\n")
    grown = go(tmp_path / "run", moved, resume="auto", class_order=order)
    assert [session.new_class_names for session in grown.sessions] == [["cat", "dog"], ["hen"], ["ant"]]
    assert go(tmp_path / "run", moved, resume="auto").class_names == ["cat", "dog", "hen", "ant"]
    assert Results.load(tmp_path / "run" / "results.json").metrics["final_accuracy"] == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "pictures.jsonl").read_text().splitlines()]
    assert sorted({row["name"] for row in rows if row["part"] == "train" and row["class_name"] == "ant"}) != []
    assert len(rows) == 20


def test_a_taught_class_that_is_gone_is_named(tmp_path):
    root = photos(tmp_path / "photos", "cat", "dog")
    go(tmp_path / "run", root)
    (root / "cat").rename(root / "tabby")
    with pytest.raises(ValueError, match="taught have no images now: cat"):
        go(tmp_path / "run", root, resume="auto")
