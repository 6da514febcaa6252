import pytest
from compared_runs import write_run
from scipy import stats

from hf_cl.results.comparison import compare
from hf_cl.results.paired import class_rows, paired_differences
from hf_cl.results.saved_run import read_run

FIRST, SECOND = [0.4, 0.5, 0.6, 0.7], [0.35, 0.5, 0.5, 0.4]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Four seeds of one method, those and one more of another; the third has no seed in common."""
    root = tmp_path_factory.mktemp("paired")
    runs = [write_run(root / f"a{seed}", seed=seed, final=final) for seed, final in enumerate(FIRST)]
    runs += [write_run(root / f"b{seed}", seed=seed, final=final, method="lora") for seed, final in enumerate([*SECOND, 0.9])]
    runs += [write_run(root / "c", seed=9, method="coact")]
    return compare([read_run(run) for run in runs], metrics=["final_accuracy", "forgetting"])


def test_pairs_are_of_common_seeds(comparison):
    found = paired_differences(comparison)
    assert [(pair.first, pair.second, pair.metric) for pair in found] == [
        ("ovor", "lora", "final_accuracy"),
        ("ovor", "lora", "forgetting"),
    ]
    accuracy, forgetting = found
    expected = [0.2 * (a - b) for a, b in zip(FIRST, SECOND, strict=True)]  # a fifth of the images
    assert accuracy.differences == pytest.approx(expected)
    assert (accuracy.higher, accuracy.lower) == (3, 0) and accuracy.sign_test == pytest.approx(0.25)
    assert forgetting.differences == pytest.approx([0.0] * 4) and forgetting.sign_test is None


def test_intervals_are_those_of_a_paired_t_test(comparison):
    accuracy = paired_differences(comparison)[0]
    expected = stats.ttest_1samp(accuracy.differences, 0).confidence_interval(0.95)
    assert accuracy.interval == pytest.approx((expected.low, expected.high))
    assert accuracy.mean == pytest.approx(sum(accuracy.differences) / 4)


def test_marks_are_no_difference_of_methods(comparison):
    everything = compare([run for group in comparison.groups[:2] for run in group.runs])
    assert any(name.startswith("mark: ") for name in everything.metrics)
    assert not any(pair.metric.startswith("mark: ") for pair in paired_differences(everything))


def test_a_single_common_seed_has_no_interval(tmp_path):
    runs = [write_run(tmp_path / name, method=name, final=final) for name, final in (("ovor", 0.5), ("lora", 0.4))]
    (pair,) = paired_differences(compare([read_run(run) for run in runs], metrics=["final_accuracy"]))
    assert pair.interval is None and pair.sign_test == 1.0 and pair.differences == pytest.approx([0.02])


def test_many_groups_stand_against_the_first(tmp_path):
    names = ("ovor", "lora", "coact", "sara", "glad", "slca")
    runs = [write_run(tmp_path / name, method=name) for name in names]
    found = paired_differences(compare([read_run(run) for run in runs], metrics=["final_accuracy"]))
    assert [(pair.first, pair.second) for pair in found] == [(name, "ovor") for name in names[1:]]


def test_classes_with_the_largest_difference_come_first(tmp_path):
    rows = {"ovor": [0.8, 0.6, 0.4, 0.9, 0.6, 0.5, None], "lora": [0.8, 0.1, 0.4, 0.9, 0.6, 0.7, 0.3]}
    before = [[1.0, 0.9, 0.8], [0.9, 0.8, 0.7, 0.8, 0.6]]
    runs = [write_run(tmp_path / name, method=name, class_accuracy_matrix=[*before, row]) for name, row in rows.items()]
    comparison = compare([read_run(run) for run in runs])
    found = class_rows(comparison.groups)
    assert [row.name for row in found[:2]] == ["bee", "fox"] and len(found) == 6  # gnu was not tested in every run
    assert found[0].differences == pytest.approx((-0.5,)) and found[0].accuracies == pytest.approx((0.6, 0.1))
    assert class_rows(comparison.groups[:1]) == []
