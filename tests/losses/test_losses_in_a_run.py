"""Composed runs with every loss that remembers something: stopped inside an epoch, they end with the same bits."""

from __future__ import annotations

import os
import signal

import pytest
from loop_case import backbone, digest, processor
from stream import Stream

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Probe
from hf_cl.errors import TrainingInterruptedError
from hf_cl.methods import compose
from hf_cl.probes import build_probes

LORA = {"type": "lora", "r": 2}
COMPOSITIONS = {
    "anchors": {
        "main": {"type": "binary_cross_entropy"},
        "losses": {
            "l2_anchor": {},
            "ewc": {"fisher_batches": 2},
            "prediction_distillation": {},
            "feature_distillation": {},
            "slope_cap": {"alpha": 0.1},
        },
    },
    "tables": {"main": {"type": "self_distillation"}, "losses": {"early_learning": {"weight": 1.0}}},
    "stablemax": {"main": {"type": "stablemax"}, "rule": {"type": "perp_grad", "scope": "all"}},
}
PROBES = {"calibration": {}, "softmax_collapse": {"every": 2}, "sharpness": {"trace_samples": 2, "power_iterations": 2}}


def added(composition):
    """With a loss more."""
    specs = COMPOSITIONS[composition]
    return {**specs, "losses": {**specs.get("losses", {}), "zero_shot_kl": {}}}


def removed(composition):
    """With a loss less; where there is no other, the main one is the usual."""
    specs = COMPOSITIONS[composition]
    if "losses" not in specs:
        return {key: spec for key, spec in specs.items() if key != "main"}
    return {**specs, "losses": dict([*specs["losses"].items()][1:])}


class StopAt(Probe):
    name = "stop"

    def __init__(self, step):
        self.step = step

    def after_step(self, trainer):
        if trainer.position.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trainer(folder, composition, probes=(), **settings):
    specs = COMPOSITIONS[composition] if isinstance(composition, str) else composition
    method = compose(adapter=LORA, epochs=2, learning_rate=1e-2, **specs)
    values = {"batch_size": 8, "eval_batch_size": 8, "augmentation": "crop_flip", "cpu": True, "logging_steps": 2, **settings}
    trained = TrainingSettings(output_dir=str(folder), **values)
    return ContinualTrainer(backbone(), processor(), method, Stream(3), trained, probes=probes, quiet=True)


@pytest.mark.filterwarnings("ignore:.*fewer than 20 images")
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_stopped_inside_an_epoch_and_resumed(composition, tmp_path):
    whole = trainer(tmp_path / "whole", composition).fit()
    probes = build_probes(PROBES | ({"suspected_labels": {}} if composition == "tables" else {}))
    with pytest.raises(TrainingInterruptedError):
        trainer(tmp_path / "stopped", composition, probes=[*probes, StopAt(9)]).fit()
    for other in (added(composition), removed(composition)):
        with pytest.raises(ValueError, match="resume with the same method"):
            trainer(tmp_path / "stopped", other, resume="auto").fit()
    again = build_probes(PROBES | ({"suspected_labels": {}} if composition == "tables" else {}))
    results = trainer(tmp_path / "stopped", composition, probes=again, resume="auto").fit()
    assert results.accuracy_matrix == whole.accuracy_matrix
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")  # and with probes as without them
    assert len(results.probes["sharpness"]["sessions"]) == 3
    assert results.probes["sharpness"]["trace_error"] > 0
    assert results.probes["softmax_collapse"]["median_gap"] is not None
    assert [found["images"] for found in results.probes["calibration"]["sessions"]] == [8, 16, 24]
    if composition == "tables":
        assert 0 <= results.probes["suspected_labels"]["share"] <= 1


def test_the_memorys_probe_needs_the_loss(tmp_path):
    with pytest.raises(ValueError, match="this run has no such loss 'early_learning'"):
        trainer(tmp_path, "stablemax", probes=build_probes({"suspected_labels": {}})).fit()
