"""The program that runs peft's tests counts honestly. (peft's tests themselves: `make conformance`.)"""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def conformance(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from conformance import cases, explained, report, source

    return SimpleNamespace(cases=cases, explained=explained, report=report, source=source)


def outcome(test: str, case: str, how: str, reason: str = "", when: str = "call"):
    nodeid = f"suite.py::TestCustomModels::{test}[{case}-model-Config-config_kwargs0]"
    return SimpleNamespace(
        nodeid=nodeid,
        when=when,
        passed=how == "passed",
        skipped=how == "skipped",
        longrepr=("file", 1, f"Skipped: {reason}"),
    )


def test_outcomes_are_counted_by_type_and_family_and_skips_by_reason(conformance):
    tally = conformance.report.Tally()
    assert not tally.clean  # nothing ran
    tally.pytest_runtest_logreport(outcome("test_a", "SARA/vit/rows in blocks", "passed", when="setup"))
    tally.pytest_runtest_logreport(outcome("test_a", "SARA/vit/rows in blocks", "passed"))
    tally.pytest_runtest_logreport(outcome("test_b", "SARA/vit/default", "skipped", "<class 'hf_cl.x.SaraConfig'> has no bias"))
    tally.pytest_runtest_logreport(outcome("test_active_adapter", "GLAD/vit/head", "failed"))
    assert tally.clean
    table = tally.table()
    assert "| SARA | vit | 1 | 0 | 0 | 1 |" in table and "| GLAD | vit | 0 | 0 | 1 | 0 |" in table
    assert "- 1 SARA: SaraConfig has no bias" in table and "- 1 GLAD: one head is active at a time" in table


@pytest.mark.parametrize(
    ("test", "how", "line"),
    [
        ("test_save_load_roundtrip", "failed", "FAILED test_save_load_roundtrip GLAD/vit/head"),
        ("test_active_adapter", "passed", "EXPLAINED, BUT PASSED test_active_adapter GLAD/vit/head"),
    ],
)
def test_an_unexplained_failure_and_a_needless_explanation_fail_the_run(conformance, test, how, line):
    tally = conformance.report.Tally()
    tally.pytest_runtest_logreport(outcome(test, "GLAD/vit/head", how))
    assert not tally.clean and line in tally.table()


def test_a_file_that_cannot_be_collected_fails_the_run(conformance):
    tally = conformance.report.Tally()
    tally.pytest_runtest_logreport(outcome("test_a", "SARA/vit/default", "passed"))
    tally.pytest_collectreport(SimpleNamespace(failed=True, nodeid="suite.py"))
    assert not tally.clean and "FAILED suite.py" in tally.table()


def test_all_types_run_and_every_explanation_is_about_a_case(conformance):
    from hf_cl.adapters.bases import SUPPORT

    ids = list(conformance.cases.BY_ID)
    assert len(ids) == len(conformance.cases.CASES)
    assert {case.split("/")[0] for case in ids} == SUPPORT.keys() - {"GROWING"}  # a type that other tests register
    for pattern in conformance.explained.EXPLAINED:
        assert any(fnmatch(f"{pattern.split(' ')[0]} {case}", pattern) for case in ids), pattern


def test_source_of_another_version_or_content_is_refused(conformance, monkeypatch, tmp_path):
    source = conformance.source
    monkeypatch.setattr(source, "FOLDER", tmp_path)
    (tmp_path / "peft-0.21.2.tar.gz").write_bytes(b"something else")
    monkeypatch.setattr(source, "version", lambda name: "0.21.2")
    with pytest.raises(RuntimeError, match="not the pinned"):
        source.unpacked_source()
    monkeypatch.setattr(source, "version", lambda name: "0.99.0")
    with pytest.raises(RuntimeError, match=r"installed peft is 0\.99\.0"):
        source.unpacked_source()
