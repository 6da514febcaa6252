"""One run small enough to check by hand: three sessions of 60, 20 and 20 test images, and two accuracy traces."""

from types import SimpleNamespace

from hf_cl.metrics import StabilityTraces

COUNTS = [60, 20, 20]
MATRIX = [[0.90], [0.80, 0.70], [0.60, 0.75, 0.50]]
TRACES = StabilityTraces(
    every=1,
    window=[2, 4],
    steps=[1, 2, 3, 4, 5, 6, 7, 8],
    session_ends=[4, 8],
    traces=[[0.2, 0.5, 0.8, 0.9, 0.4, 0.6, 0.7, 0.8], [0.3, 0.5, 0.7, 0.8]],
)
OTHER_FIELDS = (
    "accuracy_matrix_task_aware",
    "accuracy_matrix_within",
    "class_accuracy_matrix",
    "test_accuracy",
    "test_counts_then",
    "future_accuracy",
    "calibration",
    "continual",
)


def measurements(**changes):
    """What `summarize` reads, with the matrix and counts above and the fields in `changes`."""
    return SimpleNamespace(**(dict.fromkeys(OTHER_FIELDS) | {"accuracy_matrix": MATRIX, "test_counts": COUNTS} | changes))
