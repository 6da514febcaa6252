import base64
import json
import re
import xml.etree.ElementTree as ET
from functools import cache

import pytest
from example_results import (
    NASTY_NAMES,
    SETTINGS,
    base_to_novel_results,
    example_results,
    few_shot_results,
    nasty_results,
    probed_results,
    sessions_of,
    shown_results,
)
from html_page import Page
from PIL import Image

from hf_cl.metrics import CalibrationBins, StabilityTraces
from hf_cl.results.examples import Example
from hf_cl.results.report import render_report, write_report
from hf_cl.results.report_figures import DARK, LIGHT, as_png, as_svg, draw_matrix, draw_sessions, drawable, heat_floor
from hf_cl.results.report_traces import POINTS, draw_traces, lowest_points, traced_sessions
from hf_cl.results.results import Memory, Results, Times

NOTES = ["Mind the backbone.", "<u>note</u>"]


@cache
def html_of(make):
    """The page of a run, drawn once for all tests."""
    return render_report(make(), SETTINGS | {"a<b>": "<script>"}, method="<i>OVOR</i>", notes=NOTES)


def page_of(make):
    return Page(html_of(make))


def test_files(tmp_path):
    page = write_report(tmp_path, example_results(), SETTINGS, method="OVOR")
    assert page == tmp_path / "report.html"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy_matrix.png", "accuracy_over_sessions.png", "report.html"]
    for name in ("accuracy_matrix.png", "accuracy_over_sessions.png"):
        with Image.open(tmp_path / name) as image:
            assert image.width >= 600
            assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20  # something is drawn


def test_the_same_run_gives_the_same_bytes():
    for draw in (lambda: as_png(draw_matrix(example_results(), LIGHT)), lambda: as_svg(draw_sessions(example_results(), DARK))):
        assert draw() == draw()


@pytest.mark.parametrize("make", [example_results, few_shot_results, base_to_novel_results, probed_results, nasty_results, shown_results])
def test_the_page_loads_and_runs_nothing(make):
    page = page_of(make)
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert all(value.startswith("data:image/svg+xml;base64,") for value in sources)
    assert any(name == "content" and value.startswith("default-src 'none'") for name, value in page.attributes)


def test_what_a_reader_looks_for_is_there():
    text = " ".join(page_of(example_results).texts)
    joined = text.replace(" ", "")  # names may break after an underscore
    for name in ("final_accuracy", "average_incremental_accuracy", "final_accuracy_unweighted", "forgetting_stepwise"):
        assert name in joined
    for shown in ("61.00", "76.17", "61.67", "12.50"):
        assert shown in text
    for shown in ("nearest class mean, no adapter", "52.00", "81,920", "1 min 23 s", "3 min 01 s", "Mind the backbone.", "crab", "2.14.1"):
        assert shown in text
    assert "class order 'seed' with class_order_seed 1" in text
    assert "0.9, 0.999" in text


def test_settings_do_not_show_the_folders_of_this_machine():
    assert "someone" not in html_of(nasty_results)


def test_sessions_that_were_not_trained_are_marked():
    assert page_of(few_shot_results).texts.count("not trained") == 2
    assert "not trained" not in page_of(example_results).texts


def test_names_cannot_break_out():
    html = html_of(nasty_results)
    page = Page(html)
    assert not {"script", "b", "u", "h3"} & set(page.tags)
    assert page.tags.count("i") == html.count('<i style="--v') + 1  # bars and the colour scale alone
    assert page.tags.count("img") == 1  # the figure
    texts = " ".join(page.texts)
    assert '<script>alert("x")</script>' in texts  # shown as it is
    assert "line one line two --- # heading" in texts
    assert "قطة سوداء" in texts
    assert "{{ 7 * 7 }} {% raw %}" in texts
    assert "\u202e" not in html
    assert "x" * 79 + "…" in texts
    assert "x" * 81 not in html


def test_right_to_left_names_keep_to_themselves():
    html = html_of(nasty_results)
    assert "<bdi>قطة سوداء</bdi>" in html


def test_base_to_novel_has_tests_instead_of_a_matrix(tmp_path):
    write_report(tmp_path, base_to_novel_results(), SETTINGS, method="GLAD")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    assert "Accuracy of each test" in text
    assert "Accuracy matrix" not in text


def test_figures_inside_are_whole_svg_in_four_variants():
    page = page_of(example_results)
    sources = [value for name, value in page.attributes if name in ("src", "srcset")]
    roots = [ET.fromstring(base64.b64decode(value.partition(",")[2])) for value in sources]
    assert len({root.attrib["width"] for root in roots}) == 2
    assert len(set(sources)) == 4
    media = [value for name, value in page.attributes if name == "media"]
    assert len(media) == 3
    assert sum("dark" in value for value in media) == 2


def test_comparisons_are_drawn_and_named():
    results = nasty_results()
    without = as_svg(draw_sessions(example_results(comparisons={}), LIGHT)).decode()
    with_marks = as_svg(draw_sessions(results, LIGHT)).decode()
    assert with_marks.count("stroke-dasharray") > without.count("stroke-dasharray")
    assert "$\\frac{1}$ | &lt;i&gt;□&lt;/i&gt;" in with_marks  # no mathtext, no markup, no missing glyph


def test_themes_change_colours_only():
    light, dark = (as_svg(draw_sessions(example_results(), theme)).decode() for theme in (LIGHT, DARK))
    assert LIGHT.surface in light
    assert DARK.surface in dark
    assert re.sub("#[0-9a-f]{6}", "", light).count("<path") == re.sub("#[0-9a-f]{6}", "", dark).count("<path")


def long_run(sessions):
    matrix = [[0.9 - 0.005 * (t - j) for j in range(t + 1)] for t in range(sessions)]
    return example_results(
        sessions=sessions_of([[f"class {t}"] for t in range(sessions)]),
        accuracy_matrix=matrix,
        accuracy_matrix_task_aware=matrix,
        accuracy_matrix_within=matrix,
        class_accuracy_matrix=matrix,
        test_counts=[20] * sessions,
        times=None,
    )


def forty_sessions():
    return long_run(40)


def one_session():
    return long_run(1)


def test_long_runs_are_dense():
    html = html_of(forty_sessions)
    assert 'class="heat dense"' in html
    assert 'title="after session 39, test 0: 70.50"' in html
    assert as_png(draw_matrix(forty_sessions(), LIGHT)).startswith(b"\x89PNG")


def test_a_single_session_can_be_drawn():
    assert as_png(draw_matrix(one_session(), LIGHT))
    assert as_png(draw_sessions(one_session(), LIGHT))
    assert page_of(one_session).texts


def test_colours_begin_below_the_lowest_accuracy():
    assert heat_floor([[0.9], [0.77, 0.8]]) == pytest.approx(0.7)
    assert heat_floor([[1.0]]) == 0.9
    assert heat_floor([[0.0]]) == 0.0


def test_letters_without_a_glyph_become_a_box():
    assert drawable("fox 🦊 漢", 20) == "fox □ □"
    assert all(len(drawable(name, 40)) <= 40 for name in NASTY_NAMES)


def example(name="ant", said="deer", *, drawn=True):
    return Example(true=name, predicted=said, confidence=0.83, session=0, drawn=drawn, image="data:image/png;base64,iVBORw0KGgo=")


def test_confusions_between_sessions():
    texts = " ".join(page_of(shown_results).texts)
    assert "of 100 test images" in texts
    assert "24" in texts and "(24.00 %) were named as a class that came later than their own" in texts
    assert "(5.00 %) as one that came earlier" in texts
    pairs = re.findall(r"ant\s+\(0\)\s*deer\s+\(1, later\)\s*12", texts)
    assert len(pairs) == 1
    assert re.search(r"fox\s+\(2\)\s*bee\s+\(0, earlier\)\s*4", texts)


def test_memory_per_session_says_what_it_is():
    assert "1.2 GB" in page_of(shown_results).texts
    assert "allocated on the GPU" in " ".join(page_of(shown_results).texts)
    process = render_report(shown_results(memory=Memory("process", [1, 2, 3])), SETTINGS, method="OVOR")
    assert "largest resident set" in process


def test_examples_show_names_and_confidence():
    page = Page(render_report(example_results(), SETTINGS, method="m", examples=[example(), example("bee", "bee"), example(drawn=False)]))
    texts = " ".join(page.texts)
    assert texts.count("83 %") == 3
    assert "Evenly drawn from the tests" in texts and "Most confident mistakes" in texts
    assert [value for name, value in page.attributes if name == "class" and value in ("right", "wrong")] == ["wrong", "right", "wrong"]


def test_names_of_examples_cannot_break_out():
    shown = [example(true, said) for true, said in zip(NASTY_NAMES, reversed(NASTY_NAMES), strict=True)]
    page = Page(render_report(nasty_results(), SETTINGS, method="m", examples=shown))
    assert not {"script", "b"} & set(page.tags)
    assert page.tags.count("img") == 1 + len(shown)
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_examples_come_from_the_run_folder(tmp_path):
    one = {"true": "ant", "predicted": "gnu", "confidence": 0.5, "session": 0, "drawn": True, "image": "data:image/png;base64,AAAA"}
    (tmp_path / "examples.json").write_text(json.dumps([one]))
    text = write_report(tmp_path, example_results(), SETTINGS, method="OVOR").read_text()
    assert "data:image/png;base64,AAAA" in text


def test_what_probes_report_has_a_table():
    html = html_of(lambda: example_results(probes={"drift": {"norm": 3.14159, "of each": [0.123456, 2], "<b>": "no"}}))
    text = " ".join(Page(html).texts)
    assert "Probes, after the last session" in text and "3.142" in text and "0.1235, 2" in text and "<b>" not in html
    assert "Probes, after" not in html_of(example_results)


def test_stability_traces_are_drawn():
    html = html_of(probed_results)
    assert "Stability between the ends of sessions" in html
    assert html.count("data:image/svg+xml;base64,") == 8
    svg = as_svg(draw_traces(probed_results().continual, DARK)).decode()
    assert ">session 0<" in svg and ">session 1<" in svg
    assert "Stability between" not in html_of(example_results)


def test_long_traces_keep_their_lowest_points():
    evaluations = [(n, 0.1 if n == 4321 else 0.9) for n in range(1, 10_001)]
    steps, values = lowest_points(evaluations)
    assert len(steps) == POINTS and values.min() == 0.1 and steps[values.argmin()] == 4321
    assert lowest_points([])[0].size == 0
    assert traced_sessions(100)[0] == 0 and traced_sessions(100)[-1] == 99 and len(traced_sessions(100)) == 8
    assert traced_sessions(3) == [0, 1, 2]


def test_a_session_that_has_just_begun_can_be_drawn():
    assert as_svg(draw_traces(StabilityTraces(every=5, steps=[5], session_ends=[5], traces=[[0.5], []]), LIGHT))


def largest_run():
    """A hundred sessions of ten classes each."""
    sessions = 100
    run = long_run(sessions)
    names = [[f"a rather long name of a class {t}.{i}" for i in range(10)] for t in range(sessions)]
    between = [[11 if k == j else 1 if k == (j + 1) % sessions else 0 for k in range(sessions)] for j in range(sessions)]
    traces = StabilityTraces(
        every=1,
        steps=list(range(1, 2001)),
        session_ends=list(range(20, 2001, 20)),
        traces=[[0.5] * (2000 - 20 * t) for t in range(sessions)],
    )
    return example_results(
        sessions=sessions_of(names),
        accuracy_matrix=run.accuracy_matrix,
        accuracy_matrix_task_aware=run.accuracy_matrix,
        accuracy_matrix_within=run.accuracy_matrix,
        class_accuracy_matrix=[[0.5] * (10 * t + 10) for t in range(sessions)],
        test_counts=[12] * sessions,
        times=Times([1.0] * sessions, [1.0] * sessions, 200.0),
        session_confusion=between,
        confused_pairs=[[i, 990 + i, 3] for i in range(10)],
        continual=traces,
    )


def test_the_page_of_the_largest_run_is_bounded():
    html = render_report(largest_run(), SETTINGS, method="OVOR", examples=[example()] * 12)
    assert len(html) < 2_000_000
    assert Page(html).tags


def test_a_thousand_sessions_fit_a_page(tmp_path):
    """Below 5 MiB: the matrix of half a million cells is a picture, in both themes."""
    sessions = 1000
    matrix = [[0.5 + 0.4 * (j == t)] * (t + 1) for t in range(sessions) for j in [t]]
    names = [[f"class {t}"] for t in range(sessions)]
    results = example_results(
        sessions=sessions_of(names),
        accuracy_matrix=matrix,
        accuracy_matrix_task_aware=matrix,
        accuracy_matrix_within=matrix,
        class_accuracy_matrix=matrix,
        test_counts=[20] * sessions,
        times=None,
    )
    html = render_report(results, SETTINGS, method="OVOR")
    assert len(html.encode()) < 5 << 20
    assert "Accuracy matrix; its numbers are in results.json." in html and 'class="heat' not in html


def test_the_reliability_plot_shows_the_last_session(tmp_path):
    bins = [CalibrationBins.of([0.9] * n, [True] * (n // 2) + [False] * (n - n // 2)) for n in (60, 80, 100)]
    results = example_results(calibration=bins)
    html = render_report(results, SETTINGS, method="OVOR")
    assert "Expected calibration error: 40.00 points." in html and "Accuracy against confidence in 15 bins." in html
    assert "Accuracy against confidence" not in html_of(example_results)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    with pytest.raises(ValueError, match="calibration needs bins that hold"):
        example_results(calibration=bins[:2])
