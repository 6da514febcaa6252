"""`hf-cl data` as a user calls it, and `hf-cl train` with what it wrote."""

import json
import re

import pytest
from photos_with_copies import write_photos


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("cli") / "photos")


def test_from_the_folder_to_a_run_without_its_leaks(photos, call, tmp_path, caplog):
    leave, out = tmp_path / "leave.txt", tmp_path / "data"
    looked = call("data", photos, "--output_dir", out, "--write_exclude", leave, "--fail_on", "leaks")
    assert looked.exit_code == 1, looked.output
    for said in (
        "of 17 test pictures 1 is also trained on, pixel by pixel, 1 nearly",
        "how hard each session is",
        "5 pictures to leave out",
    ):
        assert said in looked.stdout, looked.stdout
    assert (out / "data.html").is_file() and (out / "data.json").is_file() and any((out / "features").iterdir())
    assert "# train/birch/wrong.png\tbirch? looks like cloud" in leave.read_text()
    all_but_one = tmp_path / "all but one.txt"
    all_but_one.write_text("".join(line for line in leave.read_text().splitlines(keepends=True) if "twice" not in line))
    words = ("--config", "none", "--cpu", "--num_base_classes", 2, "--classes_per_session", 1, "--feature_cache", out / "features")
    trained = call("train", "nearest_class_mean", *words, "--dataset", photos, "--exclude", all_but_one, "--output_dir", tmp_path / "run")
    assert trained.exit_code == 0, trained.output
    assert caplog.messages[-1].startswith("1 training picture repeats another one. `hf-cl data` shows them")
    protocol = json.loads((tmp_path / "run" / "results.json").read_text())["protocol"]
    assert protocol["details"]["excluded"]["images"] == 4
    assert "left out (exclude): 4." in (tmp_path / "run" / "README.md").read_text()
    clean = call("data", photos, "--output_dir", out, "--exclude", leave, "--fast", "--json", "--fail_on", "leaks", "--fail_on", "labels")
    assert clean.exit_code == 0 and json.loads(clean.stdout)["groups"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fail_on", "leaks"], "No such|Name the data set|is no folder"),
        (["digits", "--fail_on", "leak"], "--fail_on takes leaks or labels, got 'leak'"),
        (["digits", "--batchsize", "3"], "Did you mean 'batch_size'"),
        (["digits", "--fast", "--difficulty"], "fast looks at exact copies"),
        (["digits", "--exclude", "nowhere.txt"], "nowhere.txt cannot be read"),
        (["digits", "--protocol", "class_incrementl"], "Did you mean 'class_incremental'"),
    ],
)
def test_mistakes_are_told(call, words, said, tmp_path):
    refused = call("data", *words, "--output_dir", tmp_path / "out")
    assert refused.exit_code == 2 and re.search(said, refused.output.replace("\n", " ")), refused.output
