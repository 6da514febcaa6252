"""`hf-cl tune` on runs, as far as one process shows it: which images it opens, what it leaves behind, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from html_page import Page
from PIL import Image
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.errors import CandidateFailedError
from hf_cl.methods import METHODS, FrozenSettings
from hf_cl.results import results as results_room
from hf_cl.run import open_scenario, parse_settings
from hf_cl.run.runs import run
from hf_cl.scenarios import open_images
from hf_cl.scenarios.class_incremental import class_incremental
from hf_cl.tuning.study import read_study, write_state

pytest.importorskip("optuna", reason="the extra tune is not installed")
from hf_cl.tuning import engines, tune
from hf_cl.tuning.choice import Candidate, Measured, Plan, choose
from hf_cl.tuning.outcome import Outcome
from hf_cl.tuning.space import Range, Space

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def here(monkeypatch):
    """Runs of a study in this process: what a process of its own does to a run, test_engines.py shows."""
    trained = []

    def local(folder, names, jobs, options):
        for name in names:
            job = next(job for job in read_study(folder).jobs if job.name == name)
            trained.append(name)
            run(parse_settings(METHODS[job.method], job.method, job.flags))
            write_state(folder, name, "done", 0)

    monkeypatch.setitem(engines.ENGINES, "local", local)
    return trained


@pytest.fixture
def photos(tmp_path):
    """Six classes; pictures to test on, and those of the last two classes, cannot be decoded."""
    for number, name in enumerate(CLASSES):
        for part, count in (("train", 10), ("test", 3)):
            place = tmp_path / "photos" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                if part == "test" or number >= 4:
                    (place / f"{i}.png").write_bytes(b"no picture")
                    continue
                pixels = np.random.default_rng((number, i)).integers(0, 90, (16, 16, 3)) + 40 * number
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return tmp_path / "photos"


STREAM = ("--num_base_classes", 2, "--classes_per_session", 2, "--class_order", "natural", "--cpu")


def test_neither_test_images_nor_later_sessions_are_decoded(photos, tmp_path, here):
    line = ("tune", "frozen", "--config", "own_images", "--backbone", "demo", "--dataset", photos, *STREAM)
    search = ("--over", "head.shrinkage=0.01:1:log", "--budget", 3, "--output_dir", tmp_path / "out")
    done = call(*line, "--head", "{type: gaussian, covariance: shared, shrinkage: 0.1}", *search)
    assert done.exit_code == 0, done.output
    assert "No test image is looked at" in done.output and "Next: hf-cl train frozen --config" in done.output
    record = json.loads((tmp_path / "out" / "tune.json").read_text())
    assert len(record["candidates"]) == 3 and record["spent"] == 3 and len(here) == 3
    for candidate in record["candidates"]:
        found = results_room.Results.load(tmp_path / "out" / "candidates" / candidate["full"]["run"] / "results.json")
        assert found.test_counts == [4, 4] and candidate["full"]["images"] == 8  # 2 of 10 images, 2 classes a session
        assert found.protocol.details["tested_on"] == "validation" and found.class_names == [*CLASSES[:4]]
    chosen = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert chosen["head"] == {"type": "gaussian", "covariance": "shared", "shrinkage": 0.1}  # 8 images tell nothing: the base stays
    assert chosen["num_base_classes"] == 2 and "resume" not in chosen and "validation_fraction" not in chosen
    settings = parse_settings(FrozenSettings, "frozen", ["--config", str(tmp_path / "out" / "best.yaml")])
    assert "8 validation images" in str(settings.tuned_on) and settings.test_on == "test" and settings.max_sessions is None
    Page((tmp_path / "out" / "tune.html").read_text())
    again = call(*line, "--head", "{type: gaussian, covariance: shared, shrinkage: 0.1}", *search)
    assert again.exit_code == 0 and len(here) == 3  # nothing runs twice
    other = call(*line, "--head", "{type: ridge}", "--over", "head.lam=0.1:1", "--budget", 3, "--output_dir", tmp_path / "out")
    assert other.exit_code == 2 and "was asked for something else" in other.output


def test_a_picture_that_is_needed_and_cannot_be_read_is_named_before_anything_runs(photos, tmp_path, here):
    (photos / "train" / "bee" / "3.png").write_bytes(b"no picture")
    line = ("tune", "frozen", "--config", "own_images", "--backbone", "demo", "--dataset", photos, *STREAM)
    done = call(*line, "--over", "head.shrinkage=0.01:1", "--output_dir", tmp_path / "out")
    assert done.exit_code == 2 and not here
    assert "pictures of the first 2 sessions cannot be read" in done.output and "3.png" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name the method first"),
        (("lor",), "Did you mean 'lora'"),
        (("nearest_class_mean", "--config", "demo"), "Nothing to tune"),
        (("lora", "--config", "demo", "--budget", 1), "must be at least 2"),
        (("lora", "--config", "demo", "--budget", "many"), "--budget takes a number, got many"),
        (("lora", "--config", "demo", "--over"), "--over needs a value."),
        (("lora", "--config", "demo", "--over="), "--over needs a value."),
        (("frozen", "--config", "demo", "--over", "head"), "name one of them, such as head.KEY, with what it may be"),
        (("lora", "--config", "demo", "--head", "{type: gaussian, prior: true}", "--over", "head"), "such as head.prior, with what"),
        (("lora", "--config", "demo", "--objective", "final_acuracy"), "Did you mean 'final_accuracy'"),
        (("lora", "--config", "demo", "--over", "epochs=-1:3"), "--over epochs, at -1:"),
        (("lora", "--config", "demo", "--epoch", 3), "Unknown setting 'epoch'"),
        (("lora", "--config", "demo", "--validation_fraction", 1), "lies between 0 and 1"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_runs(arguments, message, tmp_path, here):
    done = call("tune", *arguments, "--output_dir", tmp_path / "out")
    assert done.exit_code == 2 and message in done.output, done.output
    assert not here


def test_a_run_that_failed_is_told_in_a_sentence(monkeypatch, tmp_path):
    def fail(asked, say):
        raise CandidateFailedError("The run base failed: no such backbone (base.txt).")

    monkeypatch.setattr(tune, "search_for", fail)
    done = call("tune", "lora", "--config", "demo", "--output_dir", tmp_path / "out")
    assert done.exit_code == 2 and "hf-cl: The run base failed: no such backbone (base.txt)." in done.output


def test_without_optuna_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    done = call("tune", "lora", "--config", "demo", "--output_dir", tmp_path)
    assert done.exit_code == 2 and "pip install 'hf-cl[tune]'" in done.output


def test_a_shortened_stream_keeps_its_validation_images_apart():
    stream = class_incremental(open_images("digits"), 4, 2, "natural", validation_fraction=0.2)
    short = stream.shortened(2, on_validation=True)
    assert len(short) == 2 and short.class_names == stream.class_names[:6] and short.whole is stream
    assert short.sessions[1].tests == stream.validation[1] and short.sessions[1].validation is None
    assert short.protocol["details"] == {"sessions": 2, "tested_on": "validation"}
    used = {i for session in short for i in session.train.indices}
    judged = {i for session in short for test in session.tests for i in test.data.indices}
    assert used and judged and not used & judged
    assert stream.shortened(1, on_validation=False).sessions[0].tests == stream.sessions[0].tests
    with pytest.raises(ValueError, match="holds no validation images out"):
        class_incremental(open_images("digits"), 4, 2).shortened(1, on_validation=True)


def test_a_run_that_measures_on_validation_images_needs_some():
    settings = parse_settings(FrozenSettings, "frozen", ["--test_on", "validation"])
    with pytest.raises(ValueError, match="needs images to measure on"):
        open_scenario(settings)


def test_the_page_and_the_config_of_a_search_that_found_something():
    settings = parse_settings(METHODS["lora"], "lora", ["--config", "demo"])
    space = Space((Range("learning_rate", 1e-4, 1e-2, log=True), Range("r", choices=(2, 4, 8))), {"learning_rate": 1e-3, "r": 4})
    found = [
        Candidate(0, space.base, None, Measured(0.5, 400, 10.0, "base")),
        Candidate(1, {"learning_rate": 3e-3, "r": 8}, Measured(0.6, 400, 3.0, "a-short"), Measured(0.8, 400, 9.0, "a")),
        Candidate(2, {"learning_rate": 1e-4, "r": 2}, Measured(None, 0)),
        Candidate(3, {"learning_rate": 5e-3, "r": 8}, Measured(0.4, 400, 3.0)),
    ]
    outcome = Outcome("lora", settings, space, Plan(8, share=0.25), found, choose(found, space), "final_accuracy", 2, 0.2)
    assert outcome.verdict == "learning_rate 0.001 -> 0.003, r 4 -> 8: 80.0 instead of 50.0 % on validation images."
    values = yaml.safe_load(outcome.config())
    assert (values["learning_rate"], values["r"]) == (3e-3, 8) and "output_dir" not in values
    page = outcome.page()
    Page(page)
    assert 'data-logx="1"' in page and ">0.003</text>" in page and ">0.001</text>" in page, "rates stand at rates, not at powers"
    assert "80.0 ± 2.0" in page and "diverged" in page and "2.75 of 8 full-length runs" in page


def test_flags_that_are_no_option_of_the_search_are_the_base_s():
    options, flags = tune._apart(["--budget", "4", "--__class__", "x", "--epochs=3", "--over", "r", "learning_rate"])
    assert (options.budget, options.over) == (4.0, ["r", "learning_rate"]) and flags == ["--__class__", "x", "--epochs=3"]
