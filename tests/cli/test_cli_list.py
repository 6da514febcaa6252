import json
from dataclasses import dataclass

import pytest

from hf_cl.adapters import ADAPTERS
from hf_cl.cli.list_ import Kind
from hf_cl.losses import LOSSES
from hf_cl.memory import MEMORIES
from hf_cl.methods import METHODS, NearestClassMeanSettings
from hf_cl.metrics import METRICS
from hf_cl.parts import PARTS
from hf_cl.probes import PROBES
from hf_cl.rules import RULES
from hf_cl.scenarios import SCENARIOS


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("methods", METHODS),
        ("adapters", ADAPTERS),
        ("losses", LOSSES),
        ("rules", RULES),
        ("parts", PARTS),
        ("memories", MEMORIES),
        ("probes", PROBES),
        ("scenarios", SCENARIOS),
        ("metrics", METRICS),
    ],
)
def test_everything_registered_is_listed_with_a_sentence(call, kind, known):
    rows = json.loads(call("list", kind, "--json").stdout)
    assert list(rows) == list(known)
    assert all(3 < len(row["description"]) < 200 and "ettings of the recipe" not in row["description"] for row in rows.values())
    shown = call("list", kind)
    assert shown.exit_code == 0
    assert [line for line in shown.stdout.splitlines() if line and not line.startswith(" ")] == list(known)


def test_without_a_kind_everything_is_listed_in_a_line_each(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = call("list")
    assert shown.exit_code == 0
    lines = {line.split()[0]: line for line in shown.stdout.splitlines() if line.startswith("  ")}
    for name in ("ovor", "one_prompt", "prototype", "zero_shot_kl", "sagm", "prototypes", "stability", "base_to_novel", "final_accuracy"):
        assert len(lines[name].split()) > 3, name
    assert list(json.loads(call("list", "--json").stdout)) == [*Kind]


@pytest.mark.parametrize("kind", ["heads", "losses", "rules", "parts", "memories", "probes"])
def test_parts_have_a_sentence_each(call, kind):
    rows = json.loads(call("list", kind, "--json").stdout)
    assert rows and all(10 < len(row["description"]) < 200 for row in rows.values())


def test_a_method_from_outside_is_described_by_its_settings(call, monkeypatch):
    @dataclass
    class Mine(NearestClassMeanSettings):
        """Class means, my way. And more."""

    monkeypatch.setitem(METHODS, "mine", Mine)
    rows = json.loads(call("list", "methods", "--json").stdout)
    assert rows["mine"] == {"description": "Class means, my way.", "adapter": "ONE_PROMPT", "configs": []}


def test_what_a_row_says(call):
    methods = json.loads(call("list", "methods", "--json").stdout)
    assert methods["ovor"]["adapter"] == "ONE_PROMPT" and "demo" in methods["ovor"]["configs"]
    adapters = json.loads(call("list", "adapters", "--json").stdout)
    assert "timm" in adapters["sara"]["bases"] and "timm" not in adapters["one_prompt"]["bases"] and adapters["lora"]["peft type"] == "GLAD"
    scenarios = json.loads(call("list", "scenarios", "--json").stdout)
    assert "shots" in scenarios["few_shot_class_incremental"]["settings"] and "source" not in scenarios["base_to_novel"]["settings"]


def test_an_unknown_kind_is_refused_with_the_known_ones(call):
    result = call("list", "hats")
    assert result.exit_code == 2
    assert all(kind in result.stderr for kind in ("methods", "adapters", "heads", "scenarios", "metrics"))
