import json
import statistics
from dataclasses import replace

import pytest
from compared_runs import two_methods, write_run
from example_results import base_to_novel_results, example_results

from hf_cl.results.comparison import ProtocolsDifferError, compare
from hf_cl.results.results import MethodRecord, Results
from hf_cl.results.saved_run import Run, read_run


def compared(folders, **options):
    return compare([read_run(folder) for folder in folders], **options)


def test_mean_and_deviation_over_seeds_by_method(tmp_path):
    comparison = compared(two_methods(tmp_path))
    assert [(group.label, group.seeds) for group in comparison.groups] == [("ovor", [0, 1, 2]), ("lora", [0])]
    spread = comparison.groups[0].metric("final_accuracy")
    values = [0.6 * 0.6 + 0.2 * 0.75 + 0.2 * final for final in (0.4, 0.5, 0.6)]  # 60, 20 and 20 test images
    assert spread.values == pytest.approx(values)
    assert spread.mean == pytest.approx(statistics.fmean(values))
    assert spread.std == pytest.approx(0.02)  # sqrt(((-0.02)^2 + 0 + 0.02^2) / 2): by n - 1
    alone = comparison.groups[1].metric("final_accuracy")
    assert alone.std is None and alone.mean == pytest.approx(0.55)
    assert {"final_accuracy", "forgetting"} <= set(comparison.metrics)
    assert [s.mean for s in comparison.groups[0].over_sessions("session_accuracy")] == pytest.approx([0.9, 0.775, 0.61])


def test_settings_that_differ_part_a_method(tmp_path):
    runs = [write_run(tmp_path / str(i), seed=i % 2, settings={"learning_rate": rate}) for i, rate in enumerate([0.01, 0.01, 0.1])]
    groups = compared(runs).groups
    assert [(group.label, len(group.runs)) for group in groups] == [("ovor (learning_rate 0.01)", 2), ("ovor (learning_rate 0.1)", 1)]


def test_another_backbone_shows_between_methods_too(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", method="lora", settings={"backbone": "google/vit", "r": 8})]
    assert [group.label for group in compared(runs).groups] == ["ovor (backbone demo)", "lora (backbone google/vit)"]


def test_where_a_run_ran_parts_nothing(tmp_path):
    runs = [
        write_run(tmp_path / "a", seed=0),
        write_run(tmp_path / "b", seed=1, settings={"num_workers": 8, "report_to": ["wandb"], "eval_batch_size": 4}),
    ]
    assert [len(group.runs) for group in compared(runs).groups] == [2]


def other_protocol(**changes):
    return {"protocol": replace(example_results().protocol, **changes)}


def test_different_protocols_are_refused_by_key(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", method="lora", **other_protocol(class_order_seed=2, shots=5))]
    with pytest.raises(ProtocolsDifferError, match=r"different protocols.*shots: – / 5; class_order_seed: 1 / 2") as caught:
        compared(runs)
    assert caught.value.keys == ["shots", "class_order_seed"]
    with pytest.raises(ProtocolsDifferError) as caught:
        compared(runs, across=["shots"])  # consent to one key is none to another
    assert caught.value.keys == ["class_order_seed"]
    comparison = compared(runs, across=["shots", "class_order_seed"])
    assert comparison.across == {"shots": [None, 5], "class_order_seed": [1, 2]}
    assert "shots" not in comparison.protocol and comparison.protocol["dataset"] == "animals"


def test_a_mean_over_class_orders_is_one_key_away(tmp_path):
    order = example_results().sessions
    turned = [replace(order[0], new_class_names=["crab", "bee", "ant"]), *order[1:]]
    runs = [write_run(tmp_path / "a", seed=0), write_run(tmp_path / "b", seed=1, sessions=turned, **other_protocol(class_order_seed=2))]
    with pytest.raises(ProtocolsDifferError, match="class_order_seed: 1 / 2"):
        compared(runs)
    assert [len(group.runs) for group in compared(runs, across=["class_order_seed"]).groups] == [2]


def test_the_same_words_with_other_classes_are_another_protocol(tmp_path):
    order = example_results().sessions
    turned = [replace(order[0], new_class_names=["crab", "bee", "ant"]), *order[1:]]
    with pytest.raises(ProtocolsDifferError, match="class_names: ant bee crab"):
        compared([write_run(tmp_path / "a"), write_run(tmp_path / "b", seed=1, sessions=turned)])


def test_a_seed_counts_once(tmp_path):
    with pytest.raises(ValueError, match=r"a and .*b are the same method, settings and seed \(0\)"):
        compared([write_run(tmp_path / "a"), write_run(tmp_path / "b")])


def test_unknown_keys_and_nameless_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'order' is no key of a protocol; it has name, dataset"):
        compared([write_run(tmp_path / "a")], across=["order"])
    with pytest.raises(ValueError, match="does not name the method"):
        compared([write_run(tmp_path / "b", method=None)])


def test_tests_with_candidates_of_their_own_are_compared_too(tmp_path):
    runs = [
        Run(tmp_path, base_to_novel_results(seed=seed, method=MethodRecord("glad", "GLAD"), test_accuracy={"base": base, "novel": 0.6}), {})
        for seed, base in ((0, 0.8), (1, 0.9))
    ]
    spread = compare(runs).groups[0].metric("base_accuracy_within")
    assert (spread.mean, spread.std) == (pytest.approx(0.85), pytest.approx(0.0707, abs=1e-4))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "results.json").unlink(), "has no results.json"),
        (lambda folder: (folder / "config.yaml").unlink(), "has no config.yaml"),
        (lambda folder: (folder / "config.yaml").write_text("{a"), "config.yaml: not valid YAML"),
        (lambda folder: (folder / "config.yaml").write_text("[1]"), "expected keys and values, found list"),
        (lambda folder: (folder / "results.json").write_text("{"), "is not valid JSON"),
    ],
)
def test_what_is_no_run_folder_is_named(tmp_path, spoil, message):
    folder = write_run(tmp_path / "run")
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        read_run(folder)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="There is no run folder"):
        read_run(tmp_path / "none")


def test_a_run_says_its_method(tmp_path):
    run = read_run(write_run(tmp_path / "run"))
    assert run.method == "OVOR" and run.settings["learning_rate"] == 0.01
    assert Results.load(run.folder / "results.json").method == MethodRecord("ovor", "OVOR")


def test_seeds_times_orders_are_a_grid_and_no_repetition(tmp_path):
    protocol = example_results().protocol
    runs = [
        write_run(tmp_path / f"{seed}-{order}", seed=seed, protocol=replace(protocol, class_order_seed=order))
        for seed in (0, 1)
        for order in (0, 1)
    ]
    (group,) = compared(runs, across=["class_order_seed"]).groups
    assert len(group.runs) == 4
    with pytest.raises(ValueError, match="would count twice"):
        compared([*runs, runs[0]], across=["class_order_seed"])


def test_one_name_and_the_same_settings_for_other_losses_are_two_groups(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    for run, smoothing in zip(runs, (0.0, 0.1), strict=True):
        (run / "method.json").write_text(json.dumps({"name": "ovor", "phases": {"from session 0": {"smoothing": smoothing}}}))
    labels = [group.label for group in compared(runs).groups]
    assert labels == ["ovor (phases.from session 0.smoothing 0.0)", "ovor (phases.from session 0.smoothing 0.1)"]


def test_a_run_that_was_stopped_is_called_so(tmp_path):
    whole = write_run(tmp_path / "whole")
    results = example_results()
    short = {"sessions": results.sessions[:2], "test_counts": results.test_counts[:2]}
    matrices = ("accuracy_matrix", "accuracy_matrix_within", "accuracy_matrix_task_aware", "class_accuracy_matrix")
    short |= {name: getattr(results, name)[:2] for name in matrices if getattr(results, name) is not None}
    unfinished = tmp_path / "short"
    unfinished.mkdir()
    short["times"] = replace(results.times, training=results.times.training[:2], evaluation=results.times.evaluation[:2])
    replace(results, **short, session_confusion=None, confused_pairs=None).save(unfinished / "results.json")
    (unfinished / "config.yaml").write_text((whole / "config.yaml").read_text())
    with pytest.raises(ValueError, match=r"short has 2 of 3 sessions. If it was stopped"):
        compared([whole, unfinished])


def test_numbers_of_probes_are_compared(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, probes={"drift": {"norm": 3.0 + seed, "all": [1, 2]}}) for seed in (0, 1)]
    comparison = compared([*runs, write_run(tmp_path / "b", method="lora")])
    assert comparison.metrics[-1] == "drift.norm" and "drift.all" not in comparison.metrics
    assert comparison.groups[0].metric("drift.norm").mean == 3.5
    assert comparison.groups[1].metric("drift.norm") is None  # no probe watched that run


def test_what_was_asked_for_is_compared(tmp_path):
    runs = [write_run(tmp_path / "a", probes={"drift": {"norm": 3.0}})]
    assert compared(runs, metrics=["forgetting_task_aware", "drift.norm"]).metrics == ("forgetting_task_aware", "drift.norm")
    with pytest.raises(ValueError, match=r"None of the runs has a single number 'forgeting'\. Did you mean 'forgetting'\?"):
        compared(runs, metrics=["forgeting"])
    with pytest.raises(ValueError, match="'session_accuracy'"):  # a list
        compared(runs, metrics=["session_accuracy"])
