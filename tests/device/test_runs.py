"""Each method, head and tower on a device that is not the CPU: nothing is mixed, nothing waits but what says so, nothing stays behind."""

from __future__ import annotations

import pytest
from device_runs import REASONS, RUNS, Run, build, on_the_device, three_phases
from fake_device import FakeDevice


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_and_resumed(name, tmp_path, folder):
    found = on_the_device(RUNS[name], tmp_path, folder)
    assert found.waits == RUNS[name].waits
    assert found.left_behind == []


def test_each_allowed_wait_has_a_reason():
    assert {where for run in RUNS.values() for where in run.waits} == REASONS.keys()


def test_results_are_those_of_the_cpu(tmp_path, folder):
    """The device computes: the same run on the CPU has the same accuracies."""
    run = Run(lambda: three_phases({"type": "linear"}))
    plain = build(run, tmp_path / "cpu", folder).fit()
    trainer = build(run, tmp_path / "device", folder)
    with FakeDevice():
        there = trainer.fit()
    assert there.accuracy_matrix == plain.accuracy_matrix
