"""What is kept running equals the definitions to the bit."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_cl import metrics
from hf_cl.metrics import AccuracyMatrix, SessionCounts


@st.composite
def evaluations(draw):
    """Counts of every evaluation of a run, all counts drawn freely; classes without test images among them, and sessions without a new
    class, which may have no test images."""
    sizes = [draw(st.integers(1, 4)), *draw(st.lists(st.integers(0, 4), max_size=11))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    class_total = rng.integers(0, 60, sum(sizes))
    starts, brought = np.cumsum([0, *sizes[:-1]]), np.array(sizes) > 0
    class_total[starts[brought]] += 1  # no session that brings classes without test images
    total = rng.integers(0, 3, len(sizes)) * 7
    total[brought] = np.add.reduceat(class_total, starts[brought])
    found = []
    for t in range(len(sizes)):
        classes = sum(sizes[: t + 1])
        counts = SessionCounts(sizes[: t + 1])
        counts.class_total = class_total[:classes]
        counts.class_correct = rng.integers(0, counts.class_total + 1)
        counts.total = total[: t + 1]
        for name in ("correct", "correct_task_aware", "correct_within"):
            setattr(counts, name, rng.integers(0, counts.total + 1))
        found.append(counts)
    return found


def by_definition(fields):
    plain, counts, within = fields["accuracy_matrix"], fields["test_counts"], fields["accuracy_matrix_within"]
    by_image, base, novel = metrics.session_accuracy(plain, counts), metrics.base_accuracy(plain), metrics.novel_accuracy(plain, counts)
    harmonic = metrics.harmonic_accuracy(base, novel)
    base_within, novel_within = metrics.base_accuracy(within), metrics.novel_accuracy(within, counts)
    return {
        "final_accuracy": by_image[-1],
        "final_accuracy_unweighted": metrics.session_accuracy_unweighted(plain)[-1],
        "average_incremental_accuracy": float(np.mean(by_image)),
        "average_incremental_accuracy_unweighted": float(np.mean(metrics.session_accuracy_unweighted(plain))),
        "session_accuracy": by_image,
        "session_accuracy_unweighted": metrics.session_accuracy_unweighted(plain),
        "pooled_accuracy": metrics.pooled_accuracy(plain, counts),
        "forgetting": metrics.forgetting(plain),
        "forgetting_clipped": metrics.forgetting_clipped(plain),
        "forgetting_stepwise": metrics.forgetting_stepwise(plain),
        "backward_transfer": metrics.backward_transfer(plain),
        "backward_transfer_all_pairs": metrics.backward_transfer_all_pairs(plain),
        "performance_drop": metrics.performance_drop(by_image),
        "performance_drop_relative": metrics.performance_drop_relative(by_image),
        "base_accuracy": base,
        "novel_accuracy": novel,
        "harmonic_accuracy": harmonic,
        "average_harmonic_accuracy": metrics.average_harmonic_accuracy(harmonic),
        "new_session_accuracy": metrics.new_session_accuracy(plain),
        "old_accuracy": metrics.old_accuracy(plain, counts),
        "task_aware_accuracy": metrics.session_accuracy(fields["accuracy_matrix_task_aware"], counts),
        "forgetting_task_aware": metrics.forgetting(fields["accuracy_matrix_task_aware"]),
        "base_accuracy_within": base_within,
        "novel_accuracy_within": novel_within,
        "harmonic_accuracy_within": metrics.harmonic_accuracy(base_within, novel_within),
        "class_mean_accuracy": metrics.class_mean_accuracy(fields["class_accuracy_matrix"]),
        "forgetting_per_class": metrics.forgetting_per_class(fields["class_accuracy_matrix"]),
    }


@settings(deadline=None, max_examples=60)
@given(evaluations())
def test_after_every_session_the_running_metrics_are_the_defined_ones(run):
    matrix = AccuracyMatrix()
    for counts in run:
        matrix.add(counts)
        assert matrix.metrics() == by_definition(matrix.fields())


def test_long_runs_too():
    """Past the length up to which numpy adds one by one, and past the first room of the running values."""
    rng, matrix = np.random.default_rng(0), AccuracyMatrix()
    for t in range(60):
        counts = SessionCounts([3] * (t + 1))
        counts.class_total, counts.total = np.full(3 * (t + 1), 7), np.full(t + 1, 21)
        counts.class_correct = rng.integers(0, 8, 3 * (t + 1))
        for name in ("correct", "correct_task_aware", "correct_within"):
            setattr(counts, name, rng.integers(0, 22, t + 1))
        matrix.add(counts)
    assert matrix.metrics() == by_definition(matrix.fields())
