"""How many cases the properties of tests/hostile see, and the values strangers and mistakes come with.

`HYPOTHESIS_PROFILE=torture pytest tests/hostile` is the long run: 1,000 cases per property, or `HOSTILE_CASES` of them.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

common = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
settings.register_profile("hostile", common, max_examples=12, derandomize=True, phases=[Phase.explicit, Phase.generate])
settings.register_profile("torture", common, max_examples=int(os.environ.get("HOSTILE_CASES", "1000")), print_blob=True)
cases = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "hostile"))
"""Decorates a property."""
few = settings(cases, max_examples=max(3, cases.max_examples // 10))
"""Decorates a property that takes long to look at."""

NAMES = [
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\windows",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "](javascript:alert(1))",
    "| a | b |",
    "`code`",
    "# heading",
    "line\nbreak\r\nand\u2028more",
    "nul\0byte",
    "\x1b[2J\x1b]0;title\x07",
    "\u202egnp.tac",
    "שלום",
    "👩‍👩‍👧‍👦",
    "e\u0301",
    "\u00e9",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "${HOME}",
    "!!python/object/apply:os.system [echo]",
    "a: b",
    "'\"",
    "x" * 10_000,
    "[bold]x[/]",
    "NaN",
    "-1",
    "None",
]
names = st.one_of(st.sampled_from(NAMES), st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
"""Class names and other text."""

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 0.0, -0.5, 1e308, 1e-308]), st.integers(-5, 50), st.floats()
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
"""Whatever JSON or YAML can hold."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file that was cut off, overwritten in places, or got bytes put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)) | st.integers(0, min(len(data), 400)))
        what = draw(st.sampled_from(["cut", "flip", "insert", "drop"]))
        if what == "cut":
            del data[at:]
        elif what == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=20))
        elif what == "drop":
            del data[at : at + draw(st.integers(1, 40))]
        elif at < len(data):
            data[at] ^= draw(st.integers(1, 255))
    return bytes(data)


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def poison(file: Path) -> bytes:
    """A pickle that makes `file` when it is read."""
    return pickle.dumps({"weight": Canary(file)})


def check_message(error: BaseException, *named: object) -> None:
    """A mistake is said in at most nine lines, without a page of text, and names what it is about."""
    text = str(error)
    assert text.count("\n") < 9 and len(text) < 2500, text
    for name in named:
        assert str(name) in text, text
