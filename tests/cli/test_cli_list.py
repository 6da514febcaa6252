import json

import pytest

from hf_cl.adapters.bases import SUPPORT
from hf_cl.methods import METHODS
from hf_cl.metrics import METRICS
from hf_cl.scenarios import SCENARIOS


@pytest.mark.parametrize(("kind", "known"), [("methods", METHODS), ("adapters", SUPPORT), ("scenarios", SCENARIOS), ("metrics", METRICS)])
def test_everything_registered_is_listed_with_a_sentence(call, kind, known):
    rows = json.loads(call("list", kind, "--json").stdout)
    assert list(rows) == list(known)
    assert all(3 < len(row["description"]) < 200 for row in rows.values())
    shown = call("list", kind)
    assert shown.exit_code == 0
    assert [line for line in shown.stdout.splitlines() if line and not line.startswith(" ")] == list(known)


def test_what_a_row_says(call):
    methods = json.loads(call("list", "methods", "--json").stdout)
    assert methods["ovor"]["adapter"] == "ONE_PROMPT" and "demo" in methods["ovor"]["configs"]
    adapters = json.loads(call("list", "adapters", "--json").stdout)
    assert "timm" in adapters["SARA"]["bases"] and "timm" not in adapters["ONE_PROMPT"]["bases"]
    scenarios = json.loads(call("list", "scenarios", "--json").stdout)
    assert "shots" in scenarios["few_shot_class_incremental"]["settings"] and "source" not in scenarios["base_to_novel"]["settings"]


def test_an_unknown_kind_is_refused_with_the_known_ones(call):
    result = call("list", "heads")
    assert result.exit_code == 2
    assert all(kind in result.stderr for kind in ("methods", "adapters", "scenarios", "metrics"))
