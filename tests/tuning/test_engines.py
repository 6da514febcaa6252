"""The engines, as far as one machine has them: every run is a process whose end is its state."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.tuning import ENGINES, Study, write_study
from hf_cl.tuning.study import Job, read_state

QUICK = (Job("quick", "nearest_class_mean", ("--help",)), Job("mistaken", "nearest_class_mean", ("--nonsense", "1")))
"""Runs that end at once: one well, one not."""


@pytest.mark.parametrize(("engine", "options"), [("local", {}), ("slurm", {"cluster": "local", "timeout_min": 5}), ("ray", {})])
@pytest.mark.filterwarnings("ignore")  # of the engines
def test_an_engine_runs_every_job_and_notes_its_end(engine, options, tmp_path):
    if engine != "local":
        pytest.importorskip({"slurm": "submitit", "ray": "ray"}[engine], reason=f"the extra {engine} is not installed")
    write_study(Study(tmp_path, QUICK))
    ENGINES[engine](tmp_path, [job.name for job in QUICK], 2, options)
    assert [read_state(tmp_path, job.name) for job in QUICK] == ["done", "failed"]
    assert "Unknown setting 'nonsense'" in (tmp_path / "output" / "mistaken.txt").read_text()
    if engine == "ray":
        import ray

        ray.shutdown()


def test_a_study_is_trained_compared_and_not_trained_again(tmp_path):
    stream = ["--num_base_classes", "5", "--classes_per_session", "5"]
    line = ["sweep", "nearest_class_mean", "--config", "demo", *stream, "--seeds", "0", "1", "--jobs", "2", "--output_dir", str(tmp_path)]
    first = CliRunner().invoke(app, line)
    assert first.exit_code == 0, first.output
    assert "2 runs to go, 0 done" in first.output and "final_accuracy" in first.output and (tmp_path / "compare.html").is_file()
    ends = [line for line in first.output.splitlines() if " of 2: nearest_class_mean-seed=" in line]
    assert [line[:7] for line in ends] == ["1 of 2:", "2 of 2:"] and all(" done after " in line and ", accuracy " in line for line in ends)
    for seed in range(2):
        run = tmp_path / f"nearest_class_mean-seed={seed}"
        assert json.loads((run / "results.json").read_text())["seed"] == seed and (run / "report.html").is_file()
    again = CliRunner().invoke(app, line)
    assert "0 runs to go, 2 done" in again.output and " of 2:" not in again.output and again.exit_code == 0
    states = CliRunner().invoke(app, ["sweep", "--status", "--output_dir", str(tmp_path)])
    assert states.output.count("done") == 2


def test_every_fault_of_every_run_is_said_before_any_runs(tmp_path):
    line = ["sweep", "lora", "linear_probe", "--config", "demo", "--grid", "r=2,x", "--output_dir", str(tmp_path)]
    refused = CliRunner().invoke(app, line)
    assert refused.exit_code == 2 and not (tmp_path / "study.json").exists()
    assert "lora-r=x: --r:" in refused.output and "linear_probe-r=2 and 1 more: Unknown setting 'r'" in refused.output
    shared = CliRunner().invoke(app, ["sweep", "lora", "linear_probe", "--seeds", "0", "1", "--epoch", "2", "--output_dir", str(tmp_path)])
    assert shared.exit_code == 2 and shared.output.count("Unknown setting 'epoch'") == 1 and "seed=" not in shared.output
