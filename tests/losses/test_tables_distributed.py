"""A table with a row per image on two processes: the same rows on both, those of one process, and the same bits after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from losses import tables_case
from processes import result_of_two
from safetensors.torch import load_file

BY_PROCESS = {"median_gap", "alignment"}
"""Means over processes of what each sees in its own batches."""


def numbers(value: Any, skip=frozenset()) -> Any:
    if isinstance(value, dict):
        return {key: numbers(entry, skip) for key, entry in value.items() if key not in skip}
    return [numbers(entry, skip) for entry in value] if isinstance(value, list) else value


def flat(value: Any, name="") -> dict[str, Any]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = {key: leaf for place, entry in entries for key, leaf in flat(entry, f"{name}.{place}").items()}
    return found or {name: value}


@pytest.mark.distributed
def test_tables_of_two_processes(tmp_path):
    """One test, so that the processes are started once."""
    found = result_of_two(Path(tables_case.__file__), tmp_path)
    one = tables_case.run(tmp_path / "one")
    for session in (0, 1):
        alone = load_file(tmp_path / "one" / f"tables-{session}-0.safetensors")
        files = [f"whole/tables-{session}-0", f"whole/tables-{session}-1", f"stopped/tables-{session}-1"]
        first, second, again = (load_file(tmp_path / f"{name}.safetensors") for name in files)
        for name, rows in first.items():
            assert rows.shape[0] == 17 and torch.equal(rows, second[name]) and torch.equal(rows, again[name]), name
            torch.testing.assert_close(rows, alone[name], rtol=0, atol=1e-6)
        visits = first["averages"][:, -1]  # beta to the number of visits, over two epochs: the image that one process repeats counts once
        torch.testing.assert_close(visits, torch.full((17,), 0.7**2))
        assert first["written"].unique(dim=0).shape[0] == 17, "every image has a row of its own"
        assert first["taught"].unique(dim=0).shape[0] == 17, "each process asks the teachers of its share alone, and both know all"
    for name in ("epochs", "memorization"):
        looks = [trace["measured"] for trace in one[name]["sessions"]]
        assert looks == [[0, 1], [0, 1]], f"{name} looks after each epoch; with labels that look wrong, memorization too"
    assert found["stopped"] and found["equal"] and found["again"] == found["probes"]
    adapters = [load_file(tmp_path / name / "adapters/session-1/adapter_model.safetensors") for name in ("one", "whole")]
    torch.testing.assert_close(*adapters, rtol=0, atol=1e-6)
    expected, both = flat(numbers(one, BY_PROCESS)), flat(numbers(found["probes"], BY_PROCESS))
    assert both.keys() == expected.keys() and len(expected) > 60
    for name, value in expected.items():
        assert both[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value), name
