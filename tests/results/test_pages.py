import re

import pytest

from hf_cl.results.pages import BLACK, HEAT, TEMPLATES, WHITE, blend, contrast, ink
from hf_cl.results.report_figures import DARK, LIGHT


def test_numbers_are_legible_on_every_cell():
    """4.5 is what the accessibility guidelines ask of small text."""
    for step in range(101):
        chosen = ink(step / 100)
        assert chosen in ("", "wl", "wd", "wb")
        for theme, white in (("light", ("wl", "wb")), ("dark", ("wd", "wb"))):
            background = blend(*HEAT[theme], step / 100)
            assert contrast(WHITE if chosen in white else BLACK, background) >= 4.5
    assert (ink(0.0), ink(1.0)) == ("wd", "wl")


def test_contrast_is_that_of_the_guidelines():
    assert contrast(BLACK, WHITE) == pytest.approx(21)
    assert contrast((118, 118, 118), WHITE) == pytest.approx(4.54, abs=0.01)


def test_style_sheet_and_pictures_have_the_same_colours():
    css = (TEMPLATES / "report.css").read_text()
    surfaces, heats = re.findall(r"--surface: (#\w+)", css), re.findall(r"--heat: (\d+) (\d+) (\d+)", css)
    for theme, surface, heat, name in zip((LIGHT, DARK), surfaces, heats, HEAT, strict=True):
        assert theme.surface == surface and theme.heat_ends == HEAT[name] and HEAT[name][1] == tuple(map(int, heat))
    colors = re.findall(r"--c(\d): (#\w+)", (TEMPLATES / "charts.css").read_text())
    for theme, found in ((LIGHT, colors[:8]), (DARK, colors[8:])):
        for number, color in found:
            rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
            assert contrast(rgb, theme.heat_ends[0]) >= 3, f"c{number} cannot be told from the page"
