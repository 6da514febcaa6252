"""Which runs a study has, and what the command line of `hf-cl sweep` says."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.tuning.arguments import parse, split
from hf_cl.tuning.study import plan, read_state, read_study, write_state, write_study


def test_the_command_line_is_taken_apart():
    line = "ovor lora --config demo --seeds 0 1 --class-orders 3 --grid learning_rate=1e-3,3e-4 --jobs=2 --cpu --epochs 1"
    found = parse(line.split())
    assert (found.methods, found.seeds, found.class_orders, found.jobs) == (["ovor", "lora"], [0, 1], [3], 2)
    assert found.grid == {"learning_rate": ["1e-3", "3e-4"]}
    assert parse(["ovor", "--class_orders", "0,1,2"]).class_orders == [0, 1, 2]  # as --grid has its values
    assert found.flags == ["--config", "demo", "--cpu", "--epochs", "1"]


def test_a_dict_is_one_value():
    assert split("{type: linear, scale: 1},{type: cosine}") == ["{type: linear, scale: 1}", "{type: cosine}"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ovor --seeds", "--seeds needs values"),
        ("ovor --seeds one", "whole numbers, got 'one'"),
        ("ovor --grid epochs", "KEY=VALUE, got 'epochs'"),
        ("ovor --epochs 1 2", "several are --grid epochs=1,2"),
    ],
)
def test_what_is_no_study_is_refused(line, words):
    with pytest.raises(ValueError, match=words):
        parse(line.split())


def test_a_study_is_methods_times_settings_times_orders_times_seeds(tmp_path):
    grid = {"head": ["{type: linear}", "{type: cosine}"]}
    study = plan(tmp_path, ["lora"], ["--config", "demo"], seeds=[0, 1], class_orders=[4, 5], grid=grid)
    assert len(study.jobs) == 8 and study.across == ("class_order_seed",)
    job = study.jobs[-1]
    assert job.name == "lora-head=_type_cosine_-class_order_seed=5-seed=1"
    own = ("--head", "{type: cosine}", "--class_order_seed", "5", "--seed", "1")
    assert job.flags == ("--config", "demo", *own, "--output_dir", str(tmp_path / job.name), "--resume", "auto")
    with pytest.raises(ValueError, match="would have the folder 'lora'"):
        plan(tmp_path, ["lora", "lora"], [])


def test_seeds_of_the_order_are_averaged_over_whichever_way_they_were_asked_for(tmp_path):
    assert plan(tmp_path, ["lora"], [], grid={"class_order_seed": ["0", "1"]}).across == ("class_order_seed",)
    assert plan(tmp_path, ["lora"], [], grid={"class_order_seed": ["0"]}).across == ()


@pytest.mark.parametrize(
    "stream",
    [("--config", "own_images"), ("--class_order", "pycil"), ("--protocol", "few_shot_class_incremental", "--shots", "2")],
    ids=["config", "flag", "protocol"],
)
def test_class_orders_that_no_seed_moves_are_refused(stream, tmp_path):
    line = ["sweep", "lora", "--dataset", "digits", "--backbone", "demo", "--class_orders", "0", "1"]
    result = CliRunner().invoke(app, [*line, *stream, "--output_dir", str(tmp_path / "study")])
    assert result.exit_code == 2
    assert "and no seed moves it. Add --class_order seed;" in result.stderr and "--grid class_order_seed=0,1 instead" in result.stderr
    assert not (tmp_path / "study").exists()


def test_a_study_grows_and_keeps_what_it_was_asked_for(tmp_path):
    write_study(plan(tmp_path, ["lora"], ["--config", "demo"], seeds=[0]))
    write_study(plan(tmp_path, ["lora"], ["--config", "demo"], seeds=[1]))
    assert [job.name for job in read_study(tmp_path).jobs] == ["lora-seed=0", "lora-seed=1"]
    with pytest.raises(ValueError, match="has the run lora-seed=0 with other settings: --config demo"):
        write_study(plan(tmp_path, ["lora"], ["--config", "own_images"], seeds=[0]))
    assert read_state(tmp_path, "lora-seed=0") == "waiting"
    write_state(tmp_path, "lora-seed=0", "failed", 2)
    assert read_state(tmp_path, "lora-seed=0") == "failed"
    with pytest.raises(ValueError, match="holds no study"):
        read_study(tmp_path / "elsewhere")
