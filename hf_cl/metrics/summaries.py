"""All metrics of a run by name. Each is recomputed from the matrices, the test counts and the traces; nothing else enters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from hf_cl.metrics import accuracies, few_shot, stability, transfer
from hf_cl.metrics.accuracies import Matrix
from hf_cl.metrics.calibration import CalibrationBins, expected_calibration_error
from hf_cl.metrics.running import RunningClasses, RunningMatrix, RunningTaskAware, RunningWithin

Metric = float | Sequence[float | None] | None
"""A number, a list over sessions, or None where the metric is not defined."""

METRICS: dict[str, str] = {
    "final_accuracy": "accuracy on all seen classes after the last session (A_T; also A_N, A_last)",
    "final_accuracy_unweighted": "the same, every session's test set counted alike",
    "average_incremental_accuracy": "mean over sessions of session_accuracy (A-bar; also average accuracy)",
    "average_incremental_accuracy_unweighted": "mean over sessions of session_accuracy_unweighted",
    "session_accuracy": "accuracy on all classes seen after each session, weighted by images (A_t)",
    "session_accuracy_unweighted": "mean over test sets after each session",
    "pooled_accuracy": "all predictions of all evaluations in one pool",
    "class_mean_accuracy": "mean over classes of the accuracy per class",
    "forgetting": "best accuracy before the last session minus final accuracy, mean over earlier sessions",
    "forgetting_clipped": "the same with the last session in the maximum: never negative",
    "forgetting_stepwise": "mean drop per step (CODA-Prompt's script)",
    "forgetting_task_aware": "forgetting with the session of each image given: feature drift without classifier bias",
    "forgetting_per_class": "best earlier accuracy minus final accuracy, mean over classes",
    "backward_transfer": "final accuracy minus accuracy right after learning, mean over earlier sessions",
    "backward_transfer_all_pairs": "the same, averaged over all later sessions (continuum)",
    "forward_transfer": "accuracy on a session before it is trained, minus that of the untrained model",
    "performance_drop": "accuracy after session 0 minus final accuracy (PD, absolute)",
    "performance_drop_relative": "performance_drop as a fraction of the accuracy after session 0",
    "base_accuracy": "test images of the base session, against all seen classes",
    "novel_accuracy": "test images of all novel classes, against all seen classes",
    "harmonic_accuracy": "harmonic mean of base_accuracy and novel_accuracy",
    "average_harmonic_accuracy": "mean over sessions from 1 on of harmonic_accuracy",
    "base_accuracy_within": "base images among the base classes alone",
    "novel_accuracy_within": "novel images among the novel classes alone",
    "harmonic_accuracy_within": "harmonic mean of the two within values",
    "new_session_accuracy": "test images of the session just learned",
    "old_accuracy": "test images of all sessions before it",
    "task_aware_accuracy": "each image among the classes of its own session alone",
    "average_test_accuracy": "mean over the test sets, each among its own candidates",
    "expected_calibration_error": "mean distance between confidence and accuracy, 15 bins, after each session (ECE)",
    "min_accuracy": "lowest accuracy of each session after it ended",
    "average_min_accuracy": "mean over earlier sessions of min_accuracy (min-ACC)",
    "worst_case_accuracy": "accuracy on the last session averaged with the lowest of each earlier one (WC-ACC)",
    "windowed_forgetting": "largest fall within w evaluations, mean over sessions (WF)",
    "windowed_plasticity": "largest rise within w evaluations, mean over sessions (WP)",
    "learning_curve_area": "mean accuracy of the first evaluations of each session (LCA)",
}
"""One line per metric, in the order of `summarize`. The windowed ones and the learning curve area carry a number at the end."""


def description(name: str) -> str:
    """The line of `METRICS` for a name, also for one that ends in a number: `windowed_forgetting_10`.

    Raises KeyError for an unknown name.
    """
    stem, _, number = name.rpartition("_")
    return METRICS[stem if number.isdigit() else name]


class Measurements(Protocol):
    """What a summary is computed from: the fields of results.json, None where the protocol does not have them."""

    @property
    def accuracy_matrix(self) -> Matrix | None: ...
    @property
    def accuracy_matrix_task_aware(self) -> Matrix | None: ...
    @property
    def accuracy_matrix_within(self) -> Matrix | None: ...
    @property
    def class_accuracy_matrix(self) -> Sequence[Sequence[float | None]] | None: ...
    @property
    def test_counts(self) -> Sequence[int]: ...
    @property
    def test_counts_then(self) -> Sequence[Sequence[int]] | None: ...
    @property
    def test_accuracy(self) -> Mapping[str, float] | None: ...
    @property
    def future_accuracy(self) -> Mapping[str, Sequence[float]] | None: ...
    @property
    def calibration(self) -> Sequence[CalibrationBins] | None: ...
    @property
    def continual(self) -> stability.StabilityTraces | None: ...


def summarize(results: Measurements) -> dict[str, Metric]:
    """Every metric of `METRICS` by name; those of continual evaluation only where traces were recorded.

    Accuracies are fractions. Lists run over sessions t (`min_accuracy`: over j). What is not defined is None, never NaN or 0.
    """
    values: dict[str, Metric] = dict.fromkeys(name for name in METRICS if name not in _MEASURED_APART)
    if results.accuracy_matrix:
        values |= _of_rows(RunningMatrix(), results.accuracy_matrix, results)
    if results.accuracy_matrix_within:
        values |= _of_rows(RunningWithin(), results.accuracy_matrix_within, results)
    if results.accuracy_matrix_task_aware:
        values |= _of_rows(RunningTaskAware(), results.accuracy_matrix_task_aware, results)
    if results.class_accuracy_matrix:
        classes = RunningClasses()
        for row in results.class_accuracy_matrix:
            classes.add(np.array(row, float))  # None becomes NaN
        values |= classes.metrics()
    if results.future_accuracy:
        values["forward_transfer"] = transfer.forward_transfer(**results.future_accuracy)
    if results.test_accuracy:
        values |= summarize_tests(results.test_accuracy)
    if results.calibration:
        values["expected_calibration_error"] = [expected_calibration_error(bins) for bins in results.calibration]
    if results.continual:
        values |= summarize_traces(results.continual)
    return values


_MEASURED_APART = (
    "expected_calibration_error",
    "min_accuracy",
    "average_min_accuracy",
    "worst_case_accuracy",
    "windowed_forgetting",
    "windowed_plasticity",
    "learning_curve_area",
)


def _of_rows(running: RunningMatrix | RunningWithin | RunningTaskAware, matrix: Matrix, results: Measurements) -> dict[str, Metric]:
    n, then = np.asarray(results.test_counts), results.test_counts_then  # [T + 1]
    for t, row in enumerate(matrix):
        running.add(np.array(row, float), n[: len(row)] if then is None else np.asarray(then[t]))
    return running.metrics()


def summarize_tests(test_accuracy: Mapping[str, float]) -> dict[str, Metric]:
    """Base-to-novel, cross-dataset, domain generalisation: one session, every test among its own candidates."""
    values: dict[str, Metric] = {"average_test_accuracy": accuracies.mean(list(test_accuracy.values()))}
    if set(test_accuracy) == {"base", "novel"}:
        base, novel = test_accuracy["base"], test_accuracy["novel"]
        values |= {"base_accuracy_within": base, "novel_accuracy_within": novel}
        values["harmonic_accuracy_within"] = few_shot.harmonic_mean(base, novel)
    return values


def summarize_traces(continual: stability.StabilityTraces) -> dict[str, Metric]:
    """What happened between the ends of sessions."""
    values: dict[str, Metric] = {
        "min_accuracy": stability.min_accuracy(continual),
        "average_min_accuracy": stability.average_min_accuracy(continual),
        "worst_case_accuracy": stability.worst_case_accuracy(continual),
    }
    for w in continual.window:
        values[f"windowed_forgetting_{w}"] = stability.mean_of_tested(continual, stability.windowed_forgetting(continual, w))
    for w in continual.window:
        values[f"windowed_plasticity_{w}"] = stability.mean_of_tested(continual, stability.windowed_plasticity(continual, w))
    values[f"learning_curve_area_{stability.LEARNING_CURVE_EVALUATIONS}"] = stability.learning_curve_area(continual)
    return values
