"""How numbers and names of a run are shown to people."""

from __future__ import annotations

import io
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

MISSING = "–"
_ALLOWED_FORMAT_CHARACTERS = {"\u200c", "\u200d"}  # joiners: emoji sequences and several scripts need them


def escape_missing_letters() -> None:
    """Let standard output and error write what their encoding lacks (a pipe on Windows, a Latin-1 locale) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def percent(fraction: float | None) -> str:
    """Percent with two decimals; a dash where there is no value."""
    return MISSING if fraction is None else f"{round(100 * fraction, 2) + 0.0:.2f}"  # + 0.0: no -0.00


def four_digits(number: float) -> str:
    """A number that is no fraction, such as a probe's."""
    return f"{number:.4g}"


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 03 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: float) -> str:
    """0.4 MB, 812 MB, 12.3 GB; a megabyte is 10^6 bytes."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.1f} GB"
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 1e7 else f"{num_bytes / 1e6:.1f} MB"


def display_name(name: str, limit: int = 80) -> str:
    """A class name or any other text of the user's on one line: at most `limit` characters, no control or direction characters.

    Escaping for HTML or Markdown is the business of whoever shows it.
    """
    readable = "".join(_readable(character) for character in name[: 4 * limit])
    line = " ".join(readable.split()) or "(blank)"
    return line if len(line) <= limit and len(name) <= 4 * limit else line[: limit - 1].rstrip() + "…"


def printable(text: str, limit: int = 2000) -> str:
    """A message for the terminal: names that strangers gave cannot move its cursor, colour it or turn its direction.

    Line breaks stay; a line has at most `limit` characters.
    """
    lines = text.split("\n")
    shown = ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[:limit]) for line in lines]
    return "\n".join(f"{line}..." if len(whole) > limit else line for line, whole in zip(shown, lines, strict=True))


def without_folders(value: str) -> str:
    """A path of this machine by its last part, since cards are published; anything else as it is."""
    path = PurePath(value)
    return path.name if path.is_absolute() or value.startswith(("~", "./", "../")) else value


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names."""
    return dict(_leaves("", values))


def _leaves(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", value


def shown(value: Any) -> str:
    """A setting as people read it, on one line."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return display_name(", ".join(without_folders(str(entry)) for entry in value), 400) if value else MISSING
    return display_name(without_folders(str(value)), 400)


def _readable(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    if category == "Cs":  # half of a pair, from a file name that is no UTF-8
        return "\ufffd"
    return "" if category == "Cf" and character not in _ALLOWED_FORMAT_CHARACTERS else character
