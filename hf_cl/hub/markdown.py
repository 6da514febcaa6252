"""Text from outside (class names, data sets, notes) inside Markdown: shown as it is, never read as markup."""

from __future__ import annotations

import re
import unicodedata

from markupsafe import Markup

from hf_cl.results.display import display_name

_MEANINGFUL = re.compile(
    r"[\\`*\[\]<>&|~#$@^]"  # code, emphasis, links, HTML, tables, headings, formulas, addresses
    r"|(?<![^\W_])_|_(?![^\W_])"  # an underscore inside a word is only itself
    r"|(?<=www)\.|:(?=//)"  # what GitHub and the Hub turn into links
    r"|^[-+=](?=[-+=\s]|$)"  # lists, rules and headings at the start of a line
)
_NUMBERED = re.compile(r"^(\d{1,9})([.)])(?=\s|$)")
_RIGHT_TO_LEFT = ("R", "AL")


def escape(text: str, limit: int = 400) -> Markup:
    """One line of Markdown that renders as `text`; right-to-left names keep to themselves."""
    line = display_name(text, limit)
    escaped = _MEANINGFUL.sub(lambda found: _entity(found.group()), line)
    escaped = _NUMBERED.sub(lambda found: found.group(1) + _entity(found.group(2)), escaped)
    if any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in line):
        escaped = f"\u2068{escaped}\u2069"
    return Markup(escaped)


def _entity(character: str) -> str:
    return f"&#{ord(character)};"


def fence(text: str, language: str = "") -> Markup:
    """A fenced block that holds any text: its fence is longer than every run of backticks inside."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{ticks}{language}\n{text.strip()}\n{ticks}")


def finalize(value: object) -> Markup:
    """What a template prints: Markdown if it says so, escaped text otherwise."""
    return value if isinstance(value, Markup) else escape(str(value))
