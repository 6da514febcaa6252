"""The worked examples of docs/examples, each in a run of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


def train_with_each(folder: Path) -> None:
    done = run(ROOT / "tests" / "run_examples.py", folder)
    assert done.status == 0, done.output[-3000:]


@pytest.fixture(scope="module")
def outcome(once):
    return json.loads((once("examples", train_with_each) / "outcome.json").read_text())


def test_the_adapter_trains_and_peft_loads_it(outcome):
    assert outcome["adapter"] == {"type": "SCALE", "head": "linear", "columns": 10, "equal": True, "layers": 6, "moved": True}


def test_the_head_travels_in_the_adapter(outcome):
    assert outcome["head"] == {"type": "ONE_PROMPT", "head": "distance", "columns": 10, "equal": True}


def test_the_loss_joins_from_session_1_on(outcome):
    sessions = outcome["loss"]["sessions"]
    assert sessions and all(session == 1 and value > 0 for session, value in sessions)


def test_under_the_rule_old_rows_keep_their_bits(outcome):
    assert outcome["gradient_rule"] == {"rest": True, "rows": [10, 10]}  # weight and bias


def test_the_scenario_has_the_groups_as_sessions(outcome):
    assert outcome["scenario"]["sessions"] == [["3", "8"], list("01245679")]
    assert "must name each class of 'digits' once" in outcome["scenario"]["refusal"]


def test_the_probe_sees_drift_and_changes_nothing(outcome):
    first, second = outcome["probe"]["drift"]
    assert first == 0 and second > 0 and outcome["probe"]["weights_equal"]


def test_an_own_loss_joins_a_method_that_exists(outcome):
    assert outcome["own_loss"] == {"sessions": [1, 2], "method": "ovor_stay"}


def test_an_own_command_has_settings_configs_help_and_resume(outcome):
    own = outcome["own_command"]
    assert own["statuses"] == [0, 0, 2] and own["same"]
    assert re.search(r"--stay NUMBER\s+Weight of the loss that holds the features\.  \[1\.0\]", own["help"])
    assert "stay: 2.0" in own["config"].splitlines()
    assert "stay = 2.0" in own["why"] and "Did you mean 'stay'?" in own["typo"]


def test_all_six_work_together(outcome):
    assert outcome["all_six"]["adapters"] == ["session-0", "session-1", "session-2"]


def test_every_example_stands_on_the_page():
    shown = re.findall(r"^<!-- code of examples/(\w+\.py) -->$", (ROOT / "docs" / "add_your_own.md").read_text(), re.MULTILINE)
    assert len(shown) == 10 and set(shown) == {path.name for path in EXAMPLES.glob("*.py")}
