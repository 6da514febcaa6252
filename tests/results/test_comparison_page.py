import pytest
from compared_runs import two_methods, write_run
from example_results import base_to_novel_results, nasty_results
from html_page import Page

from hf_cl.results.comparison import Spread, compare
from hf_cl.results.comparison_page import draw_comparison, render_comparison, spread_text, write_comparison
from hf_cl.results.report_figures import LIGHT, as_svg
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
    assert not {"script", "link", "iframe"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert len(sources) == 4 and all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    assert "someone" not in path.read_text()  # no folders of this machine


def test_a_band_is_drawn_where_there_are_several_seeds(comparison):
    both = as_svg(draw_comparison(comparison.groups, LIGHT)).decode()
    alone = as_svg(draw_comparison(comparison.groups[1:], LIGHT)).decode()
    assert "FillBetween" in both and "FillBetween" not in alone
    assert ">ovor<" in both and ">lora<" in both


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


def test_protocols_without_sessions_have_tables_alone(tmp_path):
    run = Run(tmp_path, base_to_novel_results(method=MethodRecord("glad", "GLAD")), {"learning_rate": 1})
    page = render_comparison(compare([run]))
    assert "<picture>" not in page and "harmonic_<wbr>accuracy" in page


def test_spreads_for_people():
    assert spread_text(Spread(0.8, 0.0123, (0.79, 0.81))) == "80.00 ± 1.23"
    assert spread_text(Spread(0.8, None, (0.8,))) == "80.00"
    assert spread_text(None) == "–"
