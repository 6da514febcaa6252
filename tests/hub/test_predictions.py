"""Pictures in every form give the same names; what cannot be read is a row; memory does not grow with their number."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from example_run import make_run
from PIL import Image
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.hub.export import export
from hf_cl.hub.load import load
from hf_cl.hub.predictions import OnnxClassifier, Predictor


@pytest.fixture(scope="module")
def run(tmp_path_factory, base_folder):
    return make_run(tmp_path_factory.mktemp("predicted") / "run", base_name=str(base_folder))


@pytest.fixture(scope="module")
def classifier(run):
    return load(run)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures, one of them a folder deeper, and a text that is none."""
    root = tmp_path_factory.mktemp("photos")
    (root / "deep").mkdir()
    for i, name in enumerate(("a.png", "b.png", "deep/c.png")):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no picture")
    return root


def test_one_picture_in_every_form(classifier, photos):
    file = photos / "a.png"
    image = Image.open(file)
    pixels = np.asarray(image)
    tensor = torch.from_numpy(pixels.copy()).permute(2, 0, 1)
    want = classifier(str(file))
    for form in (file, image, pixels, tensor, tensor.float() / 255, file.read_bytes()):
        assert classifier(form) == want
        assert classifier.predict([form]) == [want]
    for several in (np.stack([pixels, pixels]), tensor[None].expand(2, -1, -1, -1), (picture for picture in [image, file])):
        for found in classifier(several):  # a batch of another size rounds otherwise
            assert [p.name for p in found] == [p.name for p in want]
            assert [p.score for p in found] == pytest.approx([p.score for p in want], abs=1e-5)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), torch.zeros(4, 4), torch.full((3, 4, 4), 2.0), b"no picture"])
def test_what_is_no_picture_is_named(classifier, wrong):
    with pytest.raises(ValueError, match="cannot be read as an image"):
        classifier(wrong)


def test_folders_and_patterns(classifier, photos):
    assert [row.name for row in classifier.rows(photos)] == [str(photos / name) for name in ("a.png", "b.png", "deep/c.png")]
    assert [row.name for row in classifier.rows(str(photos / "*.png"))] == [str(photos / name) for name in ("a.png", "b.png")]
    assert len(classifier(str(photos / "**" / "*.png"))) == 3


def test_what_cannot_be_read_is_a_row_and_no_end(classifier, photos):
    rows = list(classifier.rows([photos / "a.png", photos / "notes.txt", photos / "none.png", photos / "b.png"], batch_size=2))
    assert [row.error is None for row in rows] == [True, False, False, True]
    assert "notes.txt cannot be read as an image" in rows[1].error
    assert rows[1].predictions == [] and rows[3].predictions[0].name == classifier(photos / "b.png")[0].name


def test_pictures_are_taken_as_they_are_needed():
    """However many there are, a few batches are open at once."""

    class Bare(Predictor):
        class_names = ["a", "b"]

        def processor(self, images, return_tensors):
            return {"pixel_values": torch.zeros(1, 3, 2, 2)}

        def logits_of(self, pixels):
            return torch.zeros(len(pixels), 2)

    taken = []

    def stream():
        for number in range(1000):
            taken.append(number)
            yield Image.new("RGB", (2, 2))

    rows = Bare().rows(stream(), batch_size=8)
    next(rows)
    assert len(taken) == 3 * 8
    assert sum(1 for _ in rows) == 999


def called(*arguments, stdin=None):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)], input=stdin)


def test_the_command_writes_rows_in_four_forms(run, classifier, photos):
    asked = (run, photos, photos / "notes.txt", "--top_k", 2)
    best = classifier(photos / "a.png", top_k=2)
    table = called(*asked)
    assert table.exit_code == 1 and table.stdout.count("\n") == 4 and "1 of 4 files could not be read" in table.stderr
    whole = json.loads(called(*asked, "--format", "json").stdout)
    assert whole[str(photos / "a.png")] == pytest.approx({p.name: p.score for p in best}, abs=1e-6)
    assert "cannot be read" in whole[str(photos / "notes.txt")]["error"]
    lines = [json.loads(line) for line in called(*asked, "--format", "jsonl").stdout.splitlines()]
    assert [line["error"] is None for line in lines] == [True, True, True, False] and list(lines[0]["scores"]) == [p.name for p in best]
    rows = list(csv.DictReader(io.StringIO(called(*asked, "--format", "csv").stdout)))
    assert rows[0]["class_1"] == best[0].name and float(rows[0]["score_2"]) == pytest.approx(best[1].score, abs=1e-6)
    assert rows[3]["class_1"] == "" and "cannot be read" in rows[3]["error"]


def test_lists_of_files(run, photos, tmp_path):
    (tmp_path / "list.txt").write_text(f"{photos / 'a.png'}\n\n{photos / 'b.png'}\n")
    assert called(run, "--files", tmp_path / "list.txt").stdout.count("\n") == 2
    assert called(run, "--files", "-", stdin=str(photos / "a.png")).stdout.count("\n") == 1
    assert "list 'nowhere.txt' cannot be read" in called(run, "--files", "nowhere.txt").stderr
    assert "No image is given" in called(run).stderr


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_an_exported_folder_is_predicted(run, classifier, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    folder = export(run, tmp_path / "onnx", "onnx")
    for mine, theirs in zip(OnnxClassifier(folder).predict(photos, top_k=3), classifier.predict(photos, top_k=3), strict=True):
        assert [p.name for p in mine] == [p.name for p in theirs]
        assert [p.score for p in mine] == pytest.approx([p.score for p in theirs], abs=1e-4)
    assert called(folder, photos).stdout.count("\n") == 3
    assert "leave revision, device, dtype and domain out" in called(folder, photos, "--dtype", "float16").stderr
