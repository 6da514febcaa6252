import json
import re
import xml.etree.ElementTree as ET

import pytest

from hf_cl.results.charts import MARKED_POINTS, MARKED_SESSIONS, Chart, Line, figure

NASTY = '</script><script>alert("x")</script>'


def chart(**changes):
    lines = [Line(name="one", values=[50.0, None, 70.0]), Line(name="two", values=[None, 20.0, 30.0], style=1, shown=False)]
    return Chart(**({"title": "accuracy, percent", "x": [0, 1, 2], "x_label": "session", "lines": lines} | changes))


def pictures(drawn):
    """The wide and the narrow one, parsed."""
    return [ET.fromstring(text) for text in re.findall(r"<svg class=\"plot.*?</svg>", drawn.markup, re.DOTALL)]


def data(drawn):
    return json.loads(re.search(r"<script type=\"application/json\">(.*)</script>", drawn.markup).group(1))


def strokes(svg):
    return {group.get("data-line"): group.find("path[@class='stroke']").get("d") for group in svg.iter("g")}


def test_two_pictures_hold_the_shown_lines_and_the_data_hold_all():
    drawn = figure(chart())
    wide, narrow = pictures(drawn)
    assert (wide.get("viewBox"), narrow.get("viewBox")) == ("0 0 920 300", "0 0 340 250")
    assert strokes(wide).keys() == {"0"}
    assert [line["name"] for line in data(drawn)["lines"]] == ["one", "two"]
    assert data(drawn)["lines"][1]["start"] == 1 and data(drawn)["lines"][1]["values"] == [20, 30]
    assert [entry.shown for entry in drawn.legend] == [True, False]


def test_points_lie_where_the_facts_of_the_picture_say():
    """The script draws lines that were not shown by these facts."""
    wide, _ = pictures(figure(chart(limits=(0, 100))))
    d = {key.removeprefix("data-"): float(value) for key, value in wide.attrib.items() if key.startswith("data-")}
    assert (d["x0"], d["x1"], d["y0"], d["y1"]) == (0, 2, 0, 100)
    middle = (d["top"] + d["bottom"]) / 2
    assert strokes(wide)["0"].startswith(f"M{d['left']:g} {middle:g}M{d['right']:g}")  # the gap breaks the line


@pytest.mark.parametrize("x", [[0], [0, 1], list(range(1000)), [0.5, 3.25]])
@pytest.mark.parametrize("values", [0.0, 100.0, -3.0, 1e-7])
def test_any_values_can_be_drawn_inside_the_frame(x, values):
    level = [values] * len(x)
    drawn = figure(chart(x=x, lines=[Line(name="a", values=level, low=[v - 1 for v in level], high=[v + 1 for v in level])]))
    for svg in pictures(drawn):
        width, height = (float(v) for v in svg.get("viewBox").split()[2:])
        for text in svg.iter("text"):
            room = 7 * len(text.text) * {"middle": 0.5, "end": 1, "start": 0}[text.get("text-anchor")]
            assert room <= float(text.get("x")) + 7 and float(text.get("y")) <= height
        numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", strokes(svg)["0"])]
        assert all(0 <= a <= width and 0 <= b <= height for a, b in zip(numbers[::2], numbers[1::2], strict=True))


def test_no_line_at_all_is_a_frame_without_lines():
    assert len(pictures(figure(chart(x=[], lines=[])))) == 2


def test_powers_of_ten():
    wide, _ = pictures(figure(chart(lines=[Line(name="loss", values=[2.0, 0.02, 0.0002])], log=True)))
    assert [t.text for t in wide.iter("text")][:6] == ["1e-4", "0.001", "0.01", "0.1", "1", "10"]
    d = {key.removeprefix("data-"): float(value) for key, value in wide.attrib.items() if key.startswith("data-")}
    assert (d["y0"], d["y1"], d["log"]) == (1e-4, 10, 1)


def test_few_points_have_marks_and_bars_and_many_a_band():
    def parts(count):
        values = [50.0] * count
        line = Line(name="a", values=values, low=[40.0] * count, high=[60.0] * count)
        return {path.get("class") for path in pictures(figure(chart(x=list(range(count)), lines=[line])))[0].iter("path")}

    assert {"marks", "errors"} <= parts(MARKED_POINTS) and "band" not in parts(MARKED_POINTS)
    assert "band" in parts(MARKED_POINTS + 1) and not {"marks", "errors"} & parts(MARKED_POINTS + 1)


def test_vertical_lines_are_all_named_or_none():
    def texts(count):
        marks = [(float(n), f"session {n}") for n in range(count)]
        wide, narrow = pictures(figure(chart(x=list(range(1000)), lines=[], marks=[(n * 1000 / count, label) for n, label in marks])))
        return [{t.text for t in svg.iter("text")} & {label for _, label in marks} for svg in (wide, narrow)]

    wide, narrow = texts(8)
    assert len(wide) == 8 and len(narrow) == 0
    assert texts(40) == [set(), set()]
    crowd = [(float(n), str(n)) for n in range(MARKED_SESSIONS + 1)]
    assert 'class="mark"' not in figure(chart(x=[0, 1000], lines=[], marks=crowd)).markup


def test_names_cannot_leave_the_data():
    drawn = figure(chart(lines=[Line(name=NASTY, values=[1.0, 2.0, 3.0])], title="a & b < c"))
    assert drawn.markup.count("<script") == 1 and drawn.markup.count("</script>") == 1
    assert data(drawn)["lines"][0]["name"] == NASTY
    assert pictures(drawn)[0].get("aria-label") == "a & b < c, by session"


def test_one_line_needs_no_legend():
    assert figure(chart(lines=[Line(name="a", values=[1.0, 2.0, 3.0])])).legend == []


def test_errors_end_where_the_axis_does():
    sure = Line(name="sure", values=[100.0, 99.0, 98.0], low=[90.0, 91.0, 92.0], high=[110.0, 107.0, 104.0])
    (ends, *_) = re.findall(r'<path class="errors" d="([^"]*)"', str(figure(chart(lines=[sure], most=(0.0, 100.0))).markup))
    bars = [tuple(map(float, bar)) for bar in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)", ends)]
    assert len(bars) == 3 and all(low > high == 12 for low, high in bars), "12 is the upper edge of the plot"
