import dataclasses

import pytest
from compared_runs import two_methods, write_run
from example_results import base_to_novel_results, example_results, nasty_results
from html_page import Page

from hf_cl.results.comparison import Spread, compare
from hf_cl.results.comparison_page import comparison_charts, points, render_comparison, spread_text, write_comparison
from hf_cl.results.results import MethodRecord
from hf_cl.results.saved_run import Run, read_run


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare([read_run(folder) for folder in two_methods(tmp_path_factory.mktemp("runs"))])


def test_the_page_has_the_numbers_and_loads_nothing(comparison, tmp_path):
    path = write_comparison(tmp_path / "compare.html", comparison)
    page = Page(path.read_text())
    text = " ".join(page.texts)
    assert "61.00 ± 2.00" in text and "55.00" in text
    assert "4 runs in 2 groups" in text and "seeds 0, 1, 2" in text
    assert "dividing by n - 1" in text
    assert not {"link", "iframe", "img"} & set(page.tags)
    assert page.tags.count("script") == 1 + 2  # the page's own, and the data of its charts
    assert not [name for name, _ in page.attributes if name in ("src", "srcset", "href")]
    assert "someone" not in path.read_text()  # no folders of this machine


def test_groups_have_marks_and_errors_of_their_own(comparison):
    accuracy, forgetting = comparison_charts(comparison.groups)
    several, single, mark = accuracy.lines
    assert mark.name == "at the end: nearest class mean, no adapter" and mark.level and mark.values == [52.0] * 3
    assert (several.name, single.name) == ("ovor", "lora") and several.style != single.style
    assert several.high[2] - several.low[2] == pytest.approx(2 * 2.0) and single.low is None
    assert forgetting.lines[0].values == [None, 10, 12.5]


def test_differences_stand_on_the_page(comparison):
    text = " ".join(Page(render_comparison(comparison)).texts)
    assert "Differences, run by run" in text and "ovor − lora" in text and "+4.00" in text
    assert "sign test cannot fall" not in text  # a single common run has none
    assert "Classes in which they differ" in text


def test_signs_of_differences():
    assert points(0.0123, "final_accuracy") == "+1.23" and points(-0.00001, "forgetting") == "+0.00"
    assert points(-1.5, "drift.norm") == "-1.5"


def test_several_data_sets_have_a_title(tmp_path):
    names = ["animals", "birds"]
    runs = [
        write_run(tmp_path / name, protocol=dataclasses.replace(example_results().protocol, dataset=name), method=method)
        for name, method in zip(names, ("ovor", "lora"), strict=True)
    ]
    page = render_comparison(compare([read_run(run) for run in runs], across=["dataset"]))
    assert "<title>2 groups of runs on 2 data sets: animals, birds</title>" in page


def test_numbers_of_probes_stand_as_they_are(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed, probes={"drift": {"norm": 3.0 + seed, "all": [1, 2]}}) for seed in (0, 1)]
    page = " ".join(Page(render_comparison(compare([read_run(run) for run in runs]))).texts)
    assert "3.5 ± 0.7071" in page and "Reported by the probe drift" in page


def test_consent_to_different_protocols_stands_on_the_page(tmp_path):
    first = write_run(tmp_path / "a")
    second = write_run(tmp_path / "b", seed=1, protocol=nasty_results().protocol)
    page = render_comparison(
        compare(
            [read_run(first), read_run(second)],
            across=["dataset", "class_order", "class_order_seed", "num_base_classes", "classes_per_session"],
        )
    )
    texts = " ".join(Page(page).texts)
    assert "The protocols differ in dataset, num_base_classes, classes_per_session, class_order, class_order_seed, as asked for" in texts
    assert "<b>" not in page


def test_seeds_that_moved_no_order_are_said(tmp_path):
    runs = [
        write_run(tmp_path / str(seed), protocol=dataclasses.replace(example_results().protocol, class_order_seed=seed)) for seed in (0, 1)
    ]
    texts = " ".join(Page(render_comparison(compare([read_run(run) for run in runs], across=["class_order_seed"]))).texts)
    assert "All runs had their classes in one order: class_order_seed moved splits and draws alone" in texts


def test_marks_of_runs_that_hold_other_images_out_are_not_the_same(tmp_path):
    shares = {"a": 0.0, "b": 0.1}
    runs = [read_run(write_run(tmp_path / name, settings={"validation_fraction": share})) for name, share in shares.items()]
    assert all(run.results.marks for run in runs)
    said = "The runs keep different shares of their training images out (validation_fraction)"
    assert said in " ".join(Page(render_comparison(compare(runs))).texts)
    assert said not in " ".join(Page(render_comparison(compare(runs[:1]))).texts)


def test_protocols_without_sessions_have_tables_alone(tmp_path):
    run = Run(tmp_path, base_to_novel_results(method=MethodRecord("glad", "GLAD")), {"learning_rate": 1})
    page = render_comparison(compare([run]))
    assert "<svg" not in page and "harmonic_<wbr>accuracy" in page


def test_spreads_for_people():
    assert spread_text(Spread(0.8, 0.0123, (0.79, 0.81))) == "80.00 ± 1.23"
    assert spread_text(Spread(0.8, None, (0.8,))) == "80.00"
    assert spread_text(None) == "–"
