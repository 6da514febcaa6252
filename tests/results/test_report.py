import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from functools import cache

import numpy as np
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
from hf_cl.results.class_confusion import write_confusion
from hf_cl.results.examples import Example
from hf_cl.results.report import BesideResults, render_report, write_report
from hf_cl.results.report_curves import CLASSES_OFFERED, MOST_VALUES, accuracy_charts, class_chart, cost_charts
from hf_cl.results.report_figures import DARK, LIGHT, as_png, draw_matrix, draw_sessions, drawable, heat_floor, matrix_pixels
from hf_cl.results.results import Memory, ProtocolRecord, Results, Times

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome"))), None)
SEVEN = sessions_of([["ant", "bee", "cat", "deer", "eel", "fox", "gnu"], ["x"], ["y"]])
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
    for draw in (lambda: as_png(draw_matrix(example_results(), LIGHT)), lambda: as_png(draw_sessions(example_results(), DARK))):
        assert draw() == draw()
    assert render_report(example_results(), SETTINGS, method="m") == render_report(example_results(), SETTINGS, method="m")


@pytest.mark.parametrize("make", [example_results, few_shot_results, base_to_novel_results, probed_results, nasty_results, shown_results])
def test_the_page_loads_nothing_and_runs_its_own_script_alone(make):
    page = page_of(make)
    assert not {"link", "iframe", "object", "form", "a"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    sources = [value for name, value in page.attributes if name in ("src", "srcset", "href")]
    assert all(value.startswith("data:image/") or not value for value in sources)
    (policy,) = [value for name, value in page.attributes if name == "content" and value.startswith("default-src")]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    (script,) = re.findall(r"<script>(.*?)</script>", html_of(make), re.DOTALL)
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.endswith(f"'sha256-{allowed}'")


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
    assert not {"b", "u", "img"} & set(page.tags)
    assert page.tags.count("script") == html.count('<script type="application/json">') + 1  # data, and the page's own
    assert page.tags.count("i") == html.count('<i style="--v') + 1  # bars and the colour scale alone
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


def test_curves_are_named_in_words_and_have_errors():
    accuracy, forgetting = accuracy_charts(example_results())
    names = [line.name for line in accuracy.lines]
    assert names[:3] == ["all classes seen so far", "classes of session 0", "new classes of that session"]
    assert names[3] == "at the end: nearest class mean, no adapter" and accuracy.lines[3].level
    assert accuracy.lines[0].values == [90, 77.5, 61] and forgetting.lines[0].values == [None, 10, 12.5]
    assert accuracy.lines[0].low[2] == pytest.approx(51.2, abs=0.05) and accuracy.lines[0].high[2] == pytest.approx(70.0, abs=0.05)
    assert [line.name for line in accuracy_charts(few_shot_results())[0].lines][2] == "all classes since session 0"


def test_a_stream_of_domains_calls_them_by_their_names():
    sessions = [replace(session, new_class_names=session.new_class_names if number == 0 else []) for number, session in enumerate(SEVEN)]
    protocol = ProtocolRecord(name="domain_incremental", dataset="looks", details={"domains": ["photo", "sketch <b>", "paint"]})
    found = example_results(protocol=protocol, sessions=sessions, comparisons={}, class_accuracy_matrix=[[0.5] * 7] * 3)
    shown = BesideResults(examples=[replace(example(), domain="paint")])
    html = render_report(found, SETTINGS, method="m", beside=shown)
    texts = " ".join(Page(html).texts)
    assert "Each session is a domain, in this order: photo, sketch <b>, paint." in texts
    assert "so <code>forgetting</code> of earlier ones" in html
    assert "`" not in texts.split("Accuracy and forgetting")[0]  # names in a sentence are code here, not backticks
    assert re.search(r"photo\s+0\s+90.00", texts) and re.search(r"sketch <b>\s+1\s", texts)  # rows of the matrix
    assert "the domain of the picture" in texts and re.search(r"is\s+ant\s*,\s+paint", texts)
    assert [line.name for line in accuracy_charts(found)[0].lines] == ["all domains so far", "the first domain", "the newest domain"]
    chart = class_chart(found)
    assert chart is not None and [line.name for line in chart.lines][:2] == found.class_names[:2]  # one session brought them all


def test_errors_follow_the_images_of_their_time():
    then = [[600], [600, 200], [60, 20, 20]]
    accuracy = accuracy_charts(example_results(test_counts_then=then))[0].lines[1]
    wide, narrow = (accuracy.high[t] - accuracy.low[t] for t in (2, 0))
    assert wide > 2 * narrow


def test_the_classes_that_lost_most_are_drawn():
    chart = class_chart(example_results())
    assert chart.lines[2].name == "crab (session 0)" and chart.lines[2].values == [80, 70, 40]
    assert (
        len(chart.lines) == 7 and all(line.shown for line in chart.lines) and chart.lines[-1].values == [None, None, None]
    )  # never tested
    assert class_chart(one_session()) is None
    many = class_chart(largest_run())
    assert len(many.lines) == CLASSES_OFFERED and sum(line.shown for line in many.lines) == 8
    assert len(many.x) * CLASSES_OFFERED <= MOST_VALUES and many.x[0] == 0 and many.x[-1] == 99


def test_costs_have_readable_units():
    time, memory = cost_charts(shown_results())
    assert time.title == "time, seconds" and memory.title == "memory at its peak, MB"
    assert time.lines[0].values == [83.25, 41.5, 40.0] and memory.lines[0].values == [1200, 900, 850]
    assert cost_charts(example_results(times=Times([9000.0] * 3, [1.0] * 3, 27003.0)))[0].title == "time, hours"


def test_comparisons_stand_in_the_legend():
    html = html_of(nasty_results)
    assert "<bdi>at the end: _$\\frac{1}$ | &lt;i&gt;🦊&lt;/i&gt; y" in html
    assert as_png(draw_sessions(nasty_results(), LIGHT)) != as_png(draw_sessions(nasty_results(comparisons={}), LIGHT))


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


def test_the_pixels_of_a_long_matrix():
    picture = Image.open(io.BytesIO(matrix_pixels([[0.5], [1.0, 0.75]]))).convert("RGBA")
    opacities = [picture.getpixel(place)[3] for place in ((0, 0), (1, 0), (0, 1), (1, 1))]
    assert opacities == [8, 0, 248, 128]


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
    near = [(said, 0.83), ("eel", 0.1), ("fox", 0.04)]
    picture = "data:image/png;base64,iVBORw0KGgo="
    return Example(true=name, predicted=said, confidence=0.83, session=0, drawn=drawn, image=picture, nearest=near)


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
    shown = BesideResults([example(), example("bee", "bee"), example(drawn=False)])
    page = Page(render_report(example_results(), SETTINGS, method="m", beside=shown))
    texts = " ".join(page.texts)
    assert texts.count("83 %") == 3 and texts.count("83.0 %") == 3 and texts.count("10.0 %") == 3
    assert [value for name, value in page.attributes if name == "data-outcome"] == ["0", "1", "0"]
    assert [value for name, value in page.attributes if name == "data-confidence"] == ["83.0"] * 3
    assert "Evenly drawn from the tests" in texts and "Most confident mistakes" in texts
    assert [value for name, value in page.attributes if name == "class" and value in ("right", "wrong")] == ["wrong", "right", "wrong"]


def test_names_of_examples_cannot_break_out():
    shown = [example(true, said) for true, said in zip(NASTY_NAMES, reversed(NASTY_NAMES), strict=True)]
    html = render_report(nasty_results(), SETTINGS, method="m", beside=BesideResults(shown))
    page = Page(html)
    assert page.tags.count("script") == html.count('<script type="application/json">') + 1
    assert page.tags.count("img") == len(shown) + 1  # and the one that shows them large
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
    assert "Stability between the ends of sessions" in html and "test images of session 1" in html
    assert "Stability between" not in html_of(example_results)


def test_a_run_folder_gives_losses_and_the_matrix_of_classes(tmp_path):
    write_confusion(tmp_path, np.array([[0, 0, 36], [0, 3, 14], [1, 5, 10], [3, 3, 19], [4, 0, 1], [5, 1, 4], [6, 6, 16]]))
    steps = [{"kind": "train", "step": n, "session": 0, "loss_cross_entropy": 1 / n, "learning_rate_0": 0.1} for n in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    html = write_report(tmp_path, shown_results(), SETTINGS, method="OVOR").read_text()
    assert "Losses and learning rates" in html and "cross entropy" in html
    assert '"begins":[3,5],"images":[50,10,0,19,1,4,16]' in html and "<canvas" in html
    assert re.search(r"54.*?60.00</span>\s*<span class=\"quiet\">", html, re.DOTALL)  # an interval where the images are known
    assert "<canvas" not in html_of(shown_results) and "Losses and learning rates" not in html_of(shown_results)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_script_runs_in_a_browser(tmp_path):
    examples = [example(), example("bee", "bee")]
    page = tmp_path / "report.html"
    page.write_text(render_report(probed_results(), SETTINGS, method="m", beside=BesideResults(examples)))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom")
    done = subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    assert "2 of 2 pictures, confidence 0 to 100 %" in done.stdout
    assert done.stdout.count('class="tip"') == done.stdout.count('class="chart"')


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
    html = render_report(largest_run(), SETTINGS, method="OVOR", beside=BesideResults([example()] * 48))
    assert len(html.encode()) < 4 << 20
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
    assert len(re.findall(r'<g class="line[^>]* data-line', html)) < 60  # of a thousand classes eight are drawn, the others wait as numbers


def test_the_reliability_plot_shows_the_last_session(tmp_path):
    bins = [CalibrationBins.of([0.9] * n, [True] * (n // 2) + [False] * (n - n // 2)) for n in (60, 80, 100)]
    results = example_results(calibration=bins)
    html = render_report(results, SETTINGS, method="OVOR")
    assert "Expected calibration error: 40.00 points." in html and "accuracy of the images of a bin" in html
    assert 'title="87 to 93 %: 50 right, 50 wrong"' in html and "confidences: 87 to 93 %: 50 right, 50 wrong. " in html
    assert "Is it right as often" not in html_of(example_results)
    results.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == results
    with pytest.raises(ValueError, match="calibration needs bins that hold"):
        example_results(calibration=bins[:2])
