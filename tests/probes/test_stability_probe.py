"""The stability probe sees what the accuracy matrix sees, and changes no bit of the run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from loop_case import build, digest
from torch import nn

from hf_cl.contracts import Session, Test
from hf_cl.heads import PrototypeHead
from hf_cl.probes import StabilityProbe
from hf_cl.results.results import Results


@pytest.fixture(scope="module", params=["linear", "prototype"])
def with_and_without(request, tmp_path_factory):
    watched, alone = tmp_path_factory.mktemp("watched"), tmp_path_factory.mktemp("alone")
    results = build(watched, head=request.param, stability_every=2).fit()
    build(alone, head=request.param).fit()
    return watched, alone, results


def test_weights_are_equal_to_the_bit(with_and_without):
    watched, alone, _ = with_and_without
    assert digest(watched) == digest(alone)


def test_traces_meet_the_accuracy_matrix_at_the_ends_of_sessions(with_and_without):
    _, _, results = with_and_without
    traces = results.continual
    assert traces.session_ends == [9, 18, 27]
    assert traces.steps == [2, 4, 6, 8, 9, 10, 12, 14, 16, 18, 20, 22, 24, 26, 27]
    for t, end in enumerate(traces.session_ends):
        for j in range(t + 1):
            assert dict(traces.evaluations(j))[end] == pytest.approx(results.accuracy_matrix[t][j])


def test_results_json_holds_traces_and_metrics(with_and_without):
    folder, _, results = with_and_without
    values = json.loads((folder / "results.json").read_text())
    assert values["continual"]["traces"] == results.continual.traces
    assert 0 <= values["metrics"]["average_min_accuracy"] <= 1
    assert Results.load(folder / "results.json").continual == results.continual


def test_a_large_test_set_is_watched_by_a_part_that_never_changes():
    class Data:
        labels, indices = list(range(50)), list(range(100, 150))

        def __len__(self):
            return 50

        def __getitem__(self, position):
            return {"index": self.indices[position]}

    def subset():
        probe = StabilityProbe(every=1, images_per_session=7)
        tests = (Test("session-0", Data(), (0, 1)),)
        probe.begin_session(
            SimpleNamespace(head=nn.Linear(4, 2)),
            Session(id=0, class_names=("a", "b"), new_class_names=("a", "b"), train=Data(), tests=tests),
        )
        return probe._subsets[0]

    first, second = subset(), subset()
    assert len(first) == 7 and first.indices == second.indices == [first[i]["index"] for i in range(7)]


@pytest.mark.parametrize(("head", "warned"), [(PrototypeHead(4, 2), True), (nn.Linear(4, 2), False)])
def test_a_head_that_is_fitted_at_the_end_draws_a_warning(caplog, head, warned):
    session = Session(id=0, class_names=("a",), new_class_names=("a",), train=[], tests=(Test("session-0", [], (0,)),))
    with caplog.at_level("WARNING"):
        StabilityProbe(every=1).begin_session(SimpleNamespace(head=head), session)
    assert ("prototype head is fitted when a session ends" in caplog.text) is warned


def test_a_protocol_with_candidates_of_its_own_is_refused():
    tests = (Test("base", [], (0,)), Test("novel", [], (1,)))
    with pytest.raises(ValueError, match="stability_every needs a protocol"):
        StabilityProbe(every=1).begin_session(None, Session(id=0, class_names=("a",), new_class_names=("a",), train=[], tests=tests))
