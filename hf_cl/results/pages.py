"""What the HTML pages share: templates in which every value is escaped, and one script, which alone may run."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hf_cl.results.display import display_name, duration, percent, shown, size

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("charts.js", "zoom.js", "gallery.js")
Color = tuple[int, int, int]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
HEAT = {"light": ((255, 255, 255), (23, 74, 156)), "dark": ((23, 28, 36), (125, 180, 255))}
"""The ends of a heat map's colours by theme, as the style sheet has them."""


@cache
def page_templates() -> Environment:
    """The templates of this room, with the filters of `hf_cl.results.display`: compiled once, for all pages of a process."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "size": size,
        "display_name": display_name,
        "shown": shown,
        "breakable": _breakable,
        "with_code": _with_code,
        "ink": ink,
    }
    environment.globals |= {"script": Markup(_script()), "script_hash": _script_hash()}
    return environment


@cache
def _script() -> str:
    return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)


def _script_hash() -> str:
    """What the page's policy allows to run: this script and no other, whatever stands in a name."""
    return f"sha256-{base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode()}"


def ink(strength: float) -> str:
    """Where the numbers of a heat map's cell are white: "wl" in the light theme, "wd" in the dark one, "wb" in both, "" in none."""
    light, dark = (lighter_reads(blend(*HEAT[theme], strength)) for theme in ("light", "dark"))
    return "wb" if light and dark else "wl" if light else "wd" if dark else ""


def blend(low: Color, high: Color, strength: float) -> Color:
    """The colour of a cell: 0 is `low`, 1 is `high`."""
    red, green, blue = (round(a + (b - a) * strength) for a, b in zip(low, high, strict=True))
    return red, green, blue


def lighter_reads(background: Color) -> bool:
    """Whether white is easier to read on a colour than black."""
    return contrast(WHITE, background) > contrast(BLACK, background)


def contrast(one: Color, other: Color) -> float:
    """The contrast of two colours as the Web Content Accessibility Guidelines define it, 1 to 21; text needs 4.5."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: Color) -> float:
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def inline_png(png: bytes) -> Markup:
    """A PNG as data URL."""
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def _with_code(sentence: str) -> Markup:
    """A sentence whose names stand in backticks, as the card's Markdown has them."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(sentence))))


def _breakable(name: str) -> Markup:
    """A name breaks after underscores and slashes before it breaks anywhere else."""
    return escape(name).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>"))
