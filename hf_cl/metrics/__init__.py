"""Metrics of continual learning, from counts to the summary of a run. numpy only.

R[t][j] is the accuracy on the test images of session j after training session t (j <= t; sessions count from 0 to T), n_j the number of
those images. Accuracies are fractions. Every function returns plain numbers or lists; what is not defined is None.
"""

from hf_cl.metrics.accuracies import (
    Matrix,
    anytime_accuracy,
    class_mean_accuracy,
    new_session_accuracy,
    old_accuracy,
    pooled_accuracy,
    session_accuracy,
    session_accuracy_unweighted,
)
from hf_cl.metrics.accuracy_matrix import AccuracyMatrix, check_matrix
from hf_cl.metrics.base_to_novel import harmonic_of_means, mean_of_harmonics
from hf_cl.metrics.calibration import CalibrationBins, check_calibration, expected_calibration_error
from hf_cl.metrics.confusions import check_confusions, confused_pairs, session_confusion, session_of_class
from hf_cl.metrics.epoch_traces import memorisation_summary, validation_summary
from hf_cl.metrics.few_shot import (
    average_harmonic_accuracy,
    base_accuracy,
    harmonic_accuracy,
    harmonic_mean,
    novel_accuracy,
    performance_drop,
    performance_drop_relative,
)
from hf_cl.metrics.intervals import wilson_interval
from hf_cl.metrics.predictions import COUNTS, SessionCounts, count_correct, evaluate_predictions
from hf_cl.metrics.running import RunningForgetting
from hf_cl.metrics.stability import (
    StabilityTraces,
    average_min_accuracy,
    check_traces,
    learning_curve_area,
    min_accuracy,
    windowed_forgetting,
    windowed_plasticity,
    worst_case_accuracy,
)
from hf_cl.metrics.summaries import METRICS, Metric, description, summarize, summarize_tests, summarize_traces
from hf_cl.metrics.transfer import (
    backward_transfer,
    backward_transfer_all_pairs,
    forgetting,
    forgetting_clipped,
    forgetting_per_class,
    forgetting_stepwise,
    forward_transfer,
)

__all__ = [
    "COUNTS",
    "METRICS",
    "AccuracyMatrix",
    "CalibrationBins",
    "Matrix",
    "Metric",
    "RunningForgetting",
    "SessionCounts",
    "StabilityTraces",
    "anytime_accuracy",
    "average_harmonic_accuracy",
    "average_min_accuracy",
    "backward_transfer",
    "backward_transfer_all_pairs",
    "base_accuracy",
    "check_calibration",
    "check_confusions",
    "check_matrix",
    "check_traces",
    "class_mean_accuracy",
    "confused_pairs",
    "count_correct",
    "description",
    "evaluate_predictions",
    "expected_calibration_error",
    "forgetting",
    "forgetting_clipped",
    "forgetting_per_class",
    "forgetting_stepwise",
    "forward_transfer",
    "harmonic_accuracy",
    "harmonic_mean",
    "harmonic_of_means",
    "learning_curve_area",
    "mean_of_harmonics",
    "memorisation_summary",
    "min_accuracy",
    "new_session_accuracy",
    "novel_accuracy",
    "old_accuracy",
    "performance_drop",
    "performance_drop_relative",
    "pooled_accuracy",
    "session_accuracy",
    "session_accuracy_unweighted",
    "session_confusion",
    "session_of_class",
    "summarize",
    "summarize_tests",
    "summarize_traces",
    "validation_summary",
    "wilson_interval",
    "windowed_forgetting",
    "windowed_plasticity",
    "worst_case_accuracy",
]
