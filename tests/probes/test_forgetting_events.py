"""Forgetting events against a table worked out by hand, and in a run that stops and goes on."""

from __future__ import annotations

import pytest
import torch
from losses.reference_net import numbers
from memory_case import StopAt, build

from hf_cl.methods import compose
from hf_cl.probes.forgetting_events import ForgettingEvents, visited

N = numbers("dsi_pp/01_replay_sam_events")


def test_events_are_counted_as_the_derivation_counts_them():
    rows = torch.zeros(N["correct"].shape[1], 4)
    for right in N["correct"].bool():
        rows = visited(rows, right)
    assert rows[:, 2].long().tolist() == N["events"].long().tolist()
    assert (rows[:, 1] == 0).tolist() == N["never_learned"].bool().tolist()
    assert float((rows[:, 2] > 0).double().mean()) == pytest.approx(float(N["share_with_event"]))


def test_a_run_with_replayed_features_and_events_stops_and_goes_on_to_the_bit(tmp_path):
    def run(folder, *more):
        method = compose(adapter={"type": "lora", "r": 4}, losses={"feature_replay": {}}, rule={"type": "sam"}, epochs=2)
        trainer = build(tmp_path / folder, method=method, checkpoint_steps=1, resume="auto", sessions=2)
        trainer.probes += [ForgettingEvents(), *more]
        return trainer.fit()

    whole = run("whole")
    with pytest.raises(RuntimeError, match="stopped"):
        run("cut", StopAt(9))  # in session 1
    again = run("cut")
    assert again.accuracy_matrix == whole.accuracy_matrix and again.probes == whole.probes
    (first, second) = whole.probes["forgetting_events"]["sessions"]
    assert 0 <= first["events_per_image"] <= 1 and 0 <= second["never_right"] <= 1
