"""What the HTML pages share: templates in which every value is escaped, and pictures that follow the reader's theme and screen."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from hf_cl.results.display import display_name, duration, percent, shown, size
from hf_cl.results.report_figures import DARK, LIGHT, Theme, as_svg


def page_templates() -> Environment:
    """The templates of this room, with the filters of `hf_cl.results.display`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "duration": duration,
        "size": size,
        "display_name": display_name,
        "shown": shown,
        "breakable": _breakable,
    }
    return environment


def variants(draw: Callable[[Theme, bool], Figure]) -> dict[str, Markup]:
    """`draw(theme, narrow)` as data URLs of SVG: `light_wide`, `light_narrow`, `dark_wide`, `dark_narrow`."""
    return {
        f"{'dark' if theme is DARK else 'light'}_{'narrow' if narrow else 'wide'}": _inline(as_svg(draw(theme, narrow)))
        for theme in (LIGHT, DARK)
        for narrow in (False, True)
    }


def _inline(svg: bytes) -> Markup:
    return Markup("data:image/svg+xml;base64,") + base64.b64encode(svg).decode()


def inline_png(png: bytes) -> Markup:
    """A PNG as data URL."""
    return Markup("data:image/png;base64,") + base64.b64encode(png).decode()


def _breakable(name: str) -> Markup:
    """A name with underscores may break after them, and nowhere else."""
    return escape(name).replace("_", Markup("_<wbr>"))
