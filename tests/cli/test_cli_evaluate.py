import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from trained_run import digit

from hf_cl.results.results import Results
from hf_cl.scenarios import class_incremental, open_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of images as a user has it: three digits, train and test."""
    folder = tmp_path_factory.mktemp("photos")
    for split in ("train", "test"):
        images = getattr(open_images("digits"), split)
        for label in (3, 5, 8):
            (folder / split / str(label)).mkdir(parents=True)
            for i in images.positions_of(label)[:4]:
                images[int(i)]["image"].save(folder / split / str(label) / f"{i}.png")
    return folder


def test_a_run_on_its_own_data_is_what_the_run_measured(call, trained):
    found = json.loads(call("evaluate", trained, "--dataset", "digits", "--json").stdout)
    results = Results.load(trained / "results.json")
    assert found["tested_on"] == "all images, as the data set has no test split, but those that were trained on"
    assert found["trained_on"] == sum(len(session.train) for session in class_incremental(open_images("digits"), 5, 5, "natural"))
    assert found["images"] == sum(results.test_counts)
    assert found["accuracy"] == pytest.approx(results.metrics["final_accuracy"])
    assert {name: row["accuracy"] for name, row in found["per_class"].items()} == pytest.approx(results.per_class_accuracy)
    assert found["classes_without_images"] == []


def test_images_that_were_trained_on_are_known_wherever_they_lie(call, trained, tmp_path):
    """By content: under other names, in another folder, among new ones; and an early session has not seen later classes."""
    run_train, _ = (session.train for session in class_incremental(open_images("digits"), 5, 5, "natural"))
    rows = [json.loads(line) for line in (trained / "pictures.jsonl").read_text().splitlines()]
    assert {row["part"] for row in rows} == {"train", "test"} and sum(row["session"] == 0 for row in rows if row["part"] == "train") == len(
        run_train
    )
    whole = call("evaluate", trained, "--dataset", "digits")
    assert "of 1797 of these were trained on; left out (--include_trained keeps them)." in whole.stdout
    kept = json.loads(call("evaluate", trained, "--dataset", "digits", "--include_trained", "--json").stdout)
    assert kept["images"] == 1797 and kept["trained_on"] == sum(row["part"] == "train" for row in rows)


def test_other_images_with_fewer_classes(call, trained, photos):
    result = call("evaluate", trained / "adapters" / "session-1", "--dataset", photos)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line.strip()]
    assert [line[:2] for line in lines if line[0] in "358"] == [["3", "4"], ["5", "4"], ["8", "4"]]
    assert "No images of 7 other classes of the adapter" in result.stdout
    assert ["all", "12"] in [line[:2] for line in lines]


def test_an_earlier_session_does_not_know_later_classes(call, trained, photos):
    result = call("evaluate", trained, "--dataset", photos, "--revision", "session-0")
    assert result.exit_code == 2
    assert "2 of 3 classes of the data set are not among the adapter's 5: '5', '8'" in result.stderr


def test_a_revision_that_is_not_there(call, trained, tmp_path):
    for command in (["evaluate", trained, "--dataset", "digits"], ["predict", trained, digit(1, tmp_path)]):
        result = call(*command, "--revision", "session-7")
        assert result.exit_code == 2 and "no revision 'session-7'; it has session-0, session-1" in result.stderr


def test_mistakes_are_sentences(call, trained, tmp_path):
    for arguments, message in (
        (["evaluate", trained, "--dataset", tmp_path / "none"], "is no folder or file here"),
        (["evaluate", tmp_path / "none", "--dataset", "digits"], "There is no folder"),
        (["evaluate", trained, "--dataset", "digits", "--test_split", "validation"], "validation"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.stderr, result.output


def test_bad_images_can_be_left_out_as_in_training(call, trained, photos, tmp_path):
    folder = shutil.copytree(photos, tmp_path / "photos")
    (folder / "test" / "3" / "broken.png").write_bytes(b"")
    refused = call("evaluate", trained, "--dataset", folder)
    assert refused.exit_code == 2 and "1 unreadable image: test/3/broken.png (the file is empty (0 bytes))" in refused.stderr
    assert "--skip_bad_images leaves these images out and goes on." in refused.stderr
    allowed = call("evaluate", trained, "--dataset", folder, "--skip_bad_images", "--json")
    assert allowed.exit_code == 0 and json.loads(allowed.stdout)["images"] == 12


def test_every_bad_file_is_named_and_the_good_ones_are_answered(call, trained, tmp_path):
    good, words, folder = digit(7, tmp_path), tmp_path / "words.txt", tmp_path / "folder"
    words.write_text("no picture")
    folder.mkdir()
    result = call("predict", trained, words, good, tmp_path / "none.png")
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and "2 of 3 files could not be read" in result.stderr
    assert lines[0] == f"{words} cannot be read as an image: no image format that hf_cl opens."
    assert lines[1].startswith(f"{good}: 7 ")
    assert lines[2].endswith("none.png cannot be read as an image: No such file or directory.")
    empty = call("predict", trained, good, folder)
    assert empty.exit_code == 2 and f"{folder} holds no pictures" in empty.stderr
    alone = call("predict", trained, tmp_path / "none.png")
    assert alone.exit_code == 2 and alone.stderr == f"hf-cl: There is no file '{tmp_path / 'none.png'}'.\n"


@pytest.mark.parametrize(("arguments", "faults"), [(["push", "runs/x", "me/photos"], 2), (["predict", "runs/x", "none.png"], 1)])
def test_what_can_be_refused_before_torch_is_loaded_is(arguments, faults, tmp_path):
    """All of it at once: of a push the folder and the token."""
    code = "import sys, hf_cl_command\ntry:\n    hf_cl_command.main()\nfinally:\n    assert 'torch' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | {
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("hf-cl: ") and len(done.stderr.splitlines()) == faults, done.stderr


def test_predict_from_an_earlier_session(call, trained, tmp_path):
    image = digit(7, tmp_path)
    now = json.loads(call("predict", trained, image, "--json").stdout)[str(image)]
    then = json.loads(call("predict", trained, image, "--json", "--revision", "session-0", "--top_k", 99).stdout)[str(image)]
    assert next(iter(now)) == "7" and len(now) == 3
    assert set(then) == set("01234")


def test_the_demo_like_run_has_a_report_with_examples(trained: Path):
    text = (trained / "report.html").read_text()
    assert "Test images and what the model says" in text and "What is taken for what" in text
    assert "nearest class mean on digits" in text
