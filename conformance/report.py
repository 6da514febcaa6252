"""Counting: outcomes per type and family, skips by reason, failures with their explanation."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fnmatch import fnmatch

import pytest

from conformance.explained import EXPLAINED

_CASE = re.compile(r"([A-Z_]+)/(\w+)/([\w ]+)-")


@dataclass
class Counts:
    """Of one type on one family."""

    passed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    explained: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)


class Tally:
    """A pytest plugin that counts."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], Counts] = defaultdict(Counts)
        self.needless: list[str] = []
        self.broken: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.broken.append(report.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = _CASE.search(report.nodeid)
        if found is None or (report.passed and report.when != "call"):
            return
        counts = self.counts[found[1], found[2]]
        name = f"{report.nodeid.split('::')[-1].split('[')[0]} {found[0].rstrip('-')}"
        if report.passed:
            counts.passed += 1
            if _explanation(name):
                self.needless.append(name)
        elif report.skipped:
            counts.skipped[_reason(report)] += 1
        else:
            sentence = _explanation(name)
            if sentence is None:
                counts.failed.append(name)
            else:
                counts.explained[sentence] += 1

    def table(self) -> str:
        """Markdown: one row per type and family, then reasons."""
        lines = ["| type | model | passed | failed | explained | skipped |", "|---|---|---|---|---|---|"]
        skipped, explained = Counter[str](), Counter[str]()
        for (kind, family), c in sorted(self.counts.items()):
            lines.append(f"| {kind} | {family} | {c.passed} | {len(c.failed)} | {c.explained.total()} | {c.skipped.total()} |")
            skipped.update({f"{kind}: {reason}": n for reason, n in c.skipped.items()})
            explained.update({f"{kind}: {reason}": n for reason, n in c.explained.items()})
        for title, reasons in (("Skipped", skipped), ("Explained failures", explained)):
            lines += ["", f"{title}:", *[f"- {n} {reason}" for reason, n in sorted(reasons.items())]]
        failed = [name for c in self.counts.values() for name in c.failed]
        lines += [f"FAILED {name}" for name in [*failed, *self.broken]]
        lines += [f"EXPLAINED, BUT PASSED {name}" for name in self.needless]
        return "\n".join(lines)

    @property
    def clean(self) -> bool:
        """Whether something ran, every failure is explained, and no explained test passed."""
        failed = any(c.failed for c in self.counts.values())
        return bool(self.counts) and not (failed or self.broken or self.needless)


def _reason(report: pytest.TestReport) -> str:
    reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return re.sub(r"<class '[\w.]+\.(\w+)'>", r"\1", reason.removeprefix("Skipped: "))


def _explanation(name: str) -> str | None:
    return next((sentence for pattern, sentence in EXPLAINED.items() if fnmatch(name, pattern)), None)
