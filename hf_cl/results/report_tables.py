"""The rows of the report's tables: sessions, classes, confusions, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from hf_cl.metrics import description, wilson_interval
from hf_cl.results.charts import json_block
from hf_cl.results.class_confusion import ClassConfusion
from hf_cl.results.display import MISSING, display_name, duration, flat, four_digits, percent, size
from hf_cl.results.results import Results
from hf_cl.results.table import progress

NUMBERED_CELLS = 25
"""Up to so many sessions a heat map shows its numbers; beyond, they appear where the pointer rests."""
CLASS_NAMES_PER_SESSION = 12
"""Class names listed in a row of the sessions' table; the rest is counted, and stands in the table of classes."""
MOST_PAIRS = 50_000
"""Pairs of classes in the page's matrix: beyond, the most frequent ones."""


class SessionRow(NamedTuple):
    """One row of the table of sessions."""

    id: int
    domain: str | None
    """That it is, in a stream of domains."""
    names: Sequence[str]
    more: int
    num_train: int
    num_test: int
    trained: bool
    accuracy: float | None
    forgetting: float | None
    training: str
    evaluation: str
    memory: str


class PairRow(NamedTuple):
    """Two classes of different sessions, of which the first was taken for the second."""

    true: str
    true_session: int
    predicted: str
    predicted_session: int
    images: int


class Confusions(NamedTuple):
    """What was named as another class, after the last session."""

    total: int
    as_later: int
    """Images named as a class that came later than their own."""
    as_earlier: int
    shares: list[list[float]] | None
    """Entry j, k: share of the test images of classes of session j that were named as a class of session k, for the `sessions`; None where
    it would not fit the page, and where one session brought all classes."""
    sessions: list[int]
    """Those that brought classes."""
    pairs: list[PairRow]
    names: list[str]
    matrix: Markup | None
    """Every pair of classes, as data for the page's script; None where the run does not tell."""


class ClassRow(NamedTuple):
    """One row of the table of classes."""

    name: str
    session: int
    accuracy: float | None
    interval: tuple[float, float] | None
    """Where the accuracy of all images of its kind may lie; None where the number of test images is not known."""


def session_rows(results: Results) -> list[SessionRow]:
    """A row per session, in order."""
    after = progress(results) or [(session.id, None, None) for session in results.sessions]
    domains = results.protocol.domains
    return [
        SessionRow(
            session.id,
            domains[session.id] if domains else None,
            session.new_class_names[:CLASS_NAMES_PER_SESSION],
            max(0, len(session.new_class_names) - CLASS_NAMES_PER_SESSION),
            session.num_train,
            session.num_test,
            session.trained,
            accuracy,
            forgot,
            duration(results.times.training[session.id]) if results.times else MISSING,
            duration(results.times.evaluation[session.id]) if results.times else MISSING,
            size(results.memory.peak_bytes[session.id]) if results.memory else MISSING,
        )
        for session, (_, accuracy, forgot) in zip(results.sessions, after, strict=True)
    ]


def class_rows(results: Results, confusion: ClassConfusion | None) -> list[ClassRow]:
    """A row per class, in order of arrival."""
    accuracies = results.per_class_accuracy or {}
    arrived = [(name, session.id) for session in results.sessions for name in session.new_class_names]
    images = [0] * len(arrived) if confusion is None else confusion.images.tolist()
    return [
        ClassRow(name, session, accuracy, wilson_interval(accuracy, count) if count and accuracy is not None else None)
        for (name, session), count in zip(arrived, images, strict=True)
        for accuracy in [accuracies.get(name)]
    ]


def confusions(results: Results, confusion: ClassConfusion | None) -> Confusions | None:
    """Between sessions and, where the run folder tells, between single classes; None where the protocol has no sessions."""
    if not results.session_confusion and confusion is None:
        return None
    between, names = np.array(results.session_confusion or [[sum(results.test_counts)]]), results.class_names
    session_of = [session.id for session in results.sessions for _ in session.new_class_names]
    pairs = [
        PairRow(names[true], session_of[true], names[said], session_of[said], images) for true, said, images in results.confused_pairs or []
    ]
    sessions = sorted({*session_of})
    table = between[np.ix_(sessions, sessions)]
    images = np.maximum(table.sum(axis=1, keepdims=True), 1)  # what a run started from may have no test images
    shares = (table / images).tolist() if 1 < len(sessions) <= NUMBERED_CELLS else None
    later, earlier = int(np.triu(between, 1).sum()), int(np.tril(between, -1).sum())
    shown = [display_name(name, 60) for name in names]
    matrix = None if confusion is None or len(names) < 2 else _matrix(confusion, shown, results)
    return Confusions(int(between.sum()), later, earlier, shares, sessions, pairs, shown, matrix)


def _matrix(confusion: ClassConfusion, names: list[str], results: Results) -> Markup:
    pairs = confusion.pairs
    if len(pairs) > MOST_PAIRS:
        pairs = pairs[np.sort(np.argsort(-pairs[:, 2], kind="stable")[:MOST_PAIRS])]
    ends = np.cumsum([len(session.new_class_names) for session in results.sessions])  # [T + 1]
    return json_block(
        {
            "names": names,
            "begins": sorted({*ends.tolist()} - {len(names)}),
            "images": confusion.images.tolist(),
            "pairs": pairs.flatten().tolist(),
        }
    )


def probe_values(results: Results) -> dict[str, Any]:
    """What probes reported, under dotted names; numbers with four digits."""
    return {key: [_short(entry) for entry in v] if isinstance(v, list) else _short(v) for key, v in flat(results.probes).items()}


def _short(value: Any) -> Any:
    return four_digits(value) if isinstance(value, float) else value


def metric_rows(results: Results) -> list[tuple[str, str, str]]:
    """(name, value, meaning); a list shows its values in order of the sessions."""
    rows = []
    for name, value in results.metrics.items():
        text = ", ".join(map(percent, value)) if isinstance(value, Sequence) else percent(value)
        rows.append((name, text, description(name)))
    return rows
