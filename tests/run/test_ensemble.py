"""`hf-cl ensemble` on trained runs: what it measures is the average, what it distils is an ordinary run, what it cannot do it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from members import train_members
from processes import run as run_script
from run import ensemble_case
from run_snippets import six_of_each
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.hub.load import load
from hf_cl.results.comparison import compare
from hf_cl.results.members import adapter_of
from hf_cl.results.saved_run import read_run as read
from hf_cl.scenarios import sources


def read_run(folder) -> Any:
    return read(folder)


@pytest.fixture(scope="module")
def members(once):
    return once("members", train_members)


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setattr(sources, "read_digits", six_of_each)
    return lambda *arguments: CliRunner().invoke(app, ["ensemble", *map(str, arguments)])


def all_digits():
    source = sources.open_images("digits")
    tests = source.split_by(0).test
    return [tests[i]["image"] for i in range(len(tests))], [str(source.class_names[label]) for label in tests.labels]


def test_the_average_is_measured_beside_its_members(call, members, tmp_path):
    runs = [members / name for name in ("lora-0", "lora-1", "probe")]
    out = tmp_path / "three"
    result = call(*runs, "--output_dir", out, "--json")
    assert result.exit_code == 0, result.output
    found = read_run(out)
    pictures, names = all_digits()
    for session in range(2):
        together = load(runs, revision=f"session-{session}")
        said = [together.class_names[i] for i in together.logits(pictures).argmax(-1).tolist()]
        seen = [(a, b) for a, b in zip(said, names, strict=True) if b in together.class_names]
        assert found.results.metrics["session_accuracy"][session] == pytest.approx(sum(a == b for a, b in seen) / len(seen))
    each = torch.stack([load(run).logits(pictures).argmax(-1) for run in runs])  # [3, n]
    apart = found.results.probes["disagreement"]
    assert apart["images"] == pytest.approx(float((each != each[0]).any(0).float().mean())) and 0 < apart["nats"] < 1.1
    assert [one["session"] for one in apart["sessions"]] == [0, 1] and apart["sessions"][1]["nats"] == apart["nats"]
    assert f"The members disagree by {apart['nats']:.2f} nats in the mean" in (out / "report.html").read_text()
    assert json.loads(result.stdout)["metrics"]["final_accuracy"] == found.results.metrics["final_accuracy"]
    assert set(found.results.comparisons) == {"lora-0 (LoRA)", "lora-1 (LoRA)", "probe (linear probe)"}
    assert found.results.parameters.trainable == sum(read_run(run).results.parameters.trainable for run in runs)
    assert yaml.safe_load((out / "config.yaml").read_text())["members"] == ["lora-0", "lora-1", "probe"]
    assert (out / "report.html").is_file() and not (out / "adapters").exists()
    with pytest.raises(ValueError, match=r"Of an ensemble, which has none of its own, name the members, or distil them"):
        load(out)
    labels = [group.label for group in compare([read_run(folder) for folder in (*runs, out)]).groups]
    assert labels == ["lora", "linear_probe", "ensemble"]


def test_a_mean_adapter_is_one_that_loads(call, members, tmp_path):
    out = tmp_path / "mean"
    result = call(members / "lora-0", members / "lora-1", "--average", "delta", "--output_dir", out)
    assert result.exit_code == 0, result.output
    pictures, names = all_digits()
    classifier = load(out)
    right = sum(row[0].name == name for row, name in zip(classifier.predict(pictures, top_k=1), names, strict=True))
    assert read_run(out).results.metrics["final_accuracy"] == pytest.approx(right / len(names))
    rows = [load(members / f"lora-{seed}").classifier.head.weight for seed in range(2)]
    torch.testing.assert_close(classifier.classifier.head.weight, (rows[0] + rows[1]) / 2)
    assert "mean LoRA of 2 runs" in (out / "README.md").read_text() and "The rank of one adapter keeps" in (out / "report.html").read_text()
    refused = call(members / "lora-0", members / "probe", "--average", "delta", "--output_dir", tmp_path / "none")
    assert refused.exit_code == 2 and "probe/adapters/session-0 is of type ONE_PROMPT" in refused.stderr


def test_a_student_learns_from_the_average_and_from_pictures_without_labels(call, members, tmp_path, caplog):
    pictures, _ = all_digits()
    loose = tmp_path / "loose"
    (loose / "deep").mkdir(parents=True)
    for number, picture in enumerate(pictures[:4]):
        picture.rotate(5).save(loose / "deep" / f"{number}.png")
    (loose / "broken.png").write_bytes(b"no picture")
    runs, out = [members / "lora-0", members / "lora-1"], tmp_path / "student"
    arguments = [*runs, "--distill", "--images", loose, "--student", "epochs=1", "--student", "r=1", "--output_dir", out]
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    assert "one adapter distilled from 2 runs" in result.stdout and "1 images cannot be read and are left out: broken.png" in caplog.text
    found = read_run(out)
    assert found.results.method.name == "distill" and found.results.method.title == "LoRA, distilled from 2 runs and 4 unlabelled images"
    assert found.settings["r"] == 1 and found.settings["learning_rate"] == 3e-3
    loss = found.composition["phases"]["from session 0"][0]["losses"]
    assert list(loss) == ["ensemble_distillation"] and len(set(loss["ensemble_distillation"]["teachers"])) == 2
    assert "distilled from 2 runs" in (out / "README.md").read_text()
    assert load(out).class_names == load(runs[0]).class_names
    again = call(*arguments)
    assert again.exit_code == 2 and "Go on with it by --resume auto" in again.stderr
    assert call(*arguments, "--resume", "auto").exit_code == 0
    other = call(members / "lora-0", members / "probe", *arguments[2:], "--resume", "auto")
    assert other.exit_code == 2 and "resume with the same method" in other.stderr


@pytest.mark.slow
def test_a_student_is_nearer_to_its_teachers_the_longer_it_learns(call, members, tmp_path):
    pictures, _ = all_digits()
    runs = [members / "lora-0", members / "lora-1"]
    teachers = load(runs).logits(pictures).exp()
    gaps = []
    for epochs in (1, 12):
        out = tmp_path / str(epochs)
        settings = [f"epochs={epochs}", "augmentation=none", "batch_size=16"]
        result = call(*runs, "--distill", *(word for one in settings for word in ("--student", one)), "--output_dir", out)
        assert result.exit_code == 0, result.output
        gaps.append(float((load(out).logits(pictures).softmax(-1) - teachers).abs().sum(-1).mean()))
    assert gaps[1] < 0.5 * gaps[0]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_measure_and_distil_what_one_does(members, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "read_digits", six_of_each)
    one = ensemble_case.run(tmp_path / "one", members)
    both = tmp_path / "two"
    both.mkdir()
    done = run_script(Path(ensemble_case.__file__), both / "found.json", members, processes=2, ACCELERATE_USE_CPU="true")
    assert done.status == 0, done.output[-4000:]
    found = json.loads((both / "found.json").read_text())
    assert found["average"] == pytest.approx(one["average"], rel=1e-5) and found["average"]["disagreement.nats"] > 0
    assert found["counts"] == one["counts"] and found["student"] == one["student"]
    weights = [load_file(adapter_of(folder / "student", 1) / "adapter_model.safetensors") for folder in (tmp_path / "one", both)]
    assert weights[0].keys() == weights[1].keys()
    for name, values in weights[0].items():
        torch.testing.assert_close(weights[1][name], values, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--distill", "--student", "backbone=me/vit"), "--student backbone: a student has it from its teachers."),
        (("--distill", "--student", "epochs"), "--student takes KEY=VALUE, got 'epochs'."),
        (("--distill", "--student", "epoch=3"), "Unknown setting 'epoch' (--student epoch). Did you mean 'epochs'?"),
        (("--distill", "--student", "head={type: gaussian}"), "The head 'gaussian' fits itself to features at the end of a session"),
        (("--distill", "--hard_labels", "1", "--images", "x"), "hard_labels reads labels, and the images of --images have none"),
        (("--distill", "--images", "./nowhere"), "'./nowhere' is no folder or file here, and cannot be a Hub id"),
        (("--distill", "--temperature", "0"), "temperature must be positive, got 0.0."),
        (("--images", "x"), "are for --distill; add it, or leave them out."),
    ],
)
def test_mistakes_are_sentences(call, members, tmp_path, arguments, said):
    result = call(members / "lora-0", members / "lora-1", *arguments, "--output_dir", tmp_path / "out")
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr


def test_a_folder_that_is_a_member_and_data_that_have_changed(call, members, tmp_path, monkeypatch):
    runs = [shutil.copytree(members / f"lora-{seed}", tmp_path / f"lora-{seed}") for seed in range(2)]
    result = call(*runs, "--output_dir", runs[0])
    assert result.exit_code == 2 and "lora-0 holds a run" in result.stderr
    monkeypatch.undo()
    result = CliRunner().invoke(app, ["ensemble", *map(str, runs), "--output_dir", str(tmp_path / "out")])
    assert result.exit_code == 2 and "was tested on 10 images, and the data have 359 test images today" in result.stderr
