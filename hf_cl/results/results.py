"""results.json: what a run measured. Everything else that shows numbers (table, report, card) reads a `Results`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from hf_cl.metrics import (
    CalibrationBins,
    Metric,
    StabilityTraces,
    check_calibration,
    check_confusions,
    check_matrix,
    check_traces,
    summarize,
)
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.display import display_name, flat
from hf_cl.results.result_records import (
    STRICT,
    Environment,
    IndexListRecord,
    Memory,
    MethodRecord,
    ParameterCounts,
    ProtocolRecord,
    SessionRecord,
    Times,
)
from hf_cl.results.results_json import FORMAT_VERSION, check_format, check_stored, complaint, plain, text_of

__all__ = [
    "FORMAT_VERSION",
    "IndexListRecord",
    "Memory",
    "MethodRecord",
    "ParameterCounts",
    "ProtocolRecord",
    "Results",
    "SessionRecord",
    "Times",
]

MARK = "mark: "
"""In front of a comparison's name among a run's numbers."""
_COMPUTED = ("metrics", "per_class_accuracy")


@dataclass(frozen=True, kw_only=True)
class Results:
    """One run with one seed. The matrices are those of `hf_cl.metrics.AccuracyMatrix`: `Results(..., **matrix.fields())`.

    Protocols whose tests have candidates of their own (base-to-novel, cross-dataset, domain generalisation) have one session and
    `test_accuracy` instead of matrices. Raises ValueError, naming the key, where the parts do not fit together.
    """

    __pydantic_config__: ClassVar = STRICT
    protocol: ProtocolRecord
    seed: int
    method: MethodRecord | None = None
    sessions: list[SessionRecord]
    accuracy_matrix: list[list[float | None]] | None = None
    """None where a session without a new class has no test images of its own."""
    accuracy_matrix_task_aware: list[list[float | None]] | None = None
    accuracy_matrix_within: list[list[float | None]] | None = None
    class_accuracy_matrix: list[list[float | None]] | None = None
    """Row t: accuracy of each class seen so far; None for a class without test images."""
    test_counts: list[int]
    """Test images per session; per test, in order, where there is `test_accuracy`."""
    test_counts_then: list[list[int]] | None = None
    """Row t: test images per session in the evaluation after session t. None where they never changed: then `test_counts` says it."""
    test_accuracy: dict[str, float] | None = None
    """Accuracy of each test among its own candidates."""
    session_confusion: list[list[int]] | None = None
    """After the last session, entry j, k: test images of classes of session j named as a class of session k; empty where one session of
    several brought all classes."""
    confused_pairs: list[list[int]] | None = None
    """After the last session, the most frequent `[true class, predicted class, images]` between sessions; classes by position."""
    future_accuracy: dict[str, list[float]] | None = None
    """Of the sessions 1 ... T: `previous_accuracy`, just before they were trained, and `untrained_accuracy`, of the untrained model."""
    calibration: list[CalibrationBins] | None = None
    """After each session, all its tests together: how often the model was right where it was how sure."""
    continual: StabilityTraces | None = None
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each probe reported after the last session, by its name."""
    comparisons: dict[str, float] = field(default_factory=dict)
    """Accuracy on all classes of other models, measured in the same run: name -> fraction."""
    parameters: ParameterCounts | None = None
    environment: Environment = field(default_factory=dict)
    times: Times | None = None
    memory: Memory | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if [session.id for session in self.sessions] != list(range(len(self.sessions))) or not self.sessions:
            raise ValueError("sessions must have the ids 0, 1, 2, ... in order.")
        if len(set(self.class_names)) != len(self.class_names):
            raise ValueError("sessions: a class name occurs twice.")
        self._check_matrices()
        self._check_fractions("comparisons", self.comparisons)
        if self.calibration is not None:
            n, then = self.test_counts, self.test_counts_then
            tested = [sum(row) for row in then] if then else list(accumulate(n))
            check_calibration(self.calibration, [sum(n)] if self.test_accuracy else tested)
        if self.continual is not None:
            check_traces(self.continual)
        costs = {f"times.{name}": getattr(self.times, name) for name in ("training", "evaluation")} if self.times else {}
        costs |= {"memory.peak_bytes": self.memory.peak_bytes} if self.memory else {}
        for key, values in costs.items():
            if len(values) != len(self.sessions) or any(value < 0 for value in values):
                raise ValueError(f"{key} must have {len(self.sessions)} values, none negative; got {values}.")

    def _check_matrices(self) -> None:
        matrices = {name: getattr(self, name) for name in ("accuracy_matrix", "accuracy_matrix_task_aware", "accuracy_matrix_within")}
        given = [name for name, matrix in matrices.items() if matrix is not None]
        if (len(given) not in (0, 3)) or bool(given) != (self.class_accuracy_matrix is not None) or bool(given) == bool(self.test_accuracy):
            raise ValueError(
                "A run has either all of accuracy_matrix, accuracy_matrix_task_aware, accuracy_matrix_within and class_accuracy_matrix, "
                "or test_accuracy."
            )
        for name in given:
            check_matrix(name, matrices[name], len(self.sessions), self._without_classes)
        if self.class_accuracy_matrix is not None:
            self._check_class_matrix(self.class_accuracy_matrix)
        if self.test_accuracy is not None:
            self._check_fractions("test_accuracy", self.test_accuracy)
        tests = len(self.sessions) if given else len(self.test_accuracy or ())
        if len(self.test_counts) != tests or self._untested(self.test_counts, bool(given)):
            raise ValueError(f"test_counts must have {tests} values (one per test), each at least 1; got {self.test_counts}.")
        if self.test_counts_then is not None:
            self._check_counts_then(self.test_counts_then)
        if self.future_accuracy is not None:
            self._check_future(self.future_accuracy)
        if self.session_confusion is not None or self.confused_pairs is not None:
            check_confusions(self.session_confusion or [], self.confused_pairs or [], self.test_counts, self._session_of_class)

    def _check_counts_then(self, rows: Sequence[Sequence[int]]) -> None:
        lengths = [len(row) for row in rows]
        if lengths != list(range(1, len(self.sessions) + 1)) or any(map(self._untested, rows)):
            raise ValueError(f"test_counts_then must have {len(self.sessions)} rows, row t of t + 1 counts, each at least 1; got {rows}.")
        if [*rows[-1]] != self.test_counts:
            raise ValueError(f"test_counts_then must end with test_counts, {self.test_counts}; got {rows[-1]}.")

    @property
    def started_from_adapter(self) -> bool:
        """Whether session 0 is what the run started from, so that nothing was trained there."""
        return not self.sessions[0].num_train

    @cached_property
    def _without_classes(self) -> frozenset[int]:
        """Sessions that may have no test images: those without a new class, and what the run started from."""
        again = frozenset(session.id for session in self.sessions if session.id and not session.new_class_names)
        return again | {0} if self.started_from_adapter else again

    def _untested(self, counts: Sequence[int], by_session: bool = True) -> bool:
        """Whether a test has no images that must have some."""
        may_be_empty = self._without_classes if by_session else frozenset()
        return any(count < (j not in may_be_empty) for j, count in enumerate(counts))

    def _check_future(self, accuracies: Mapping[str, Sequence[float]]) -> None:
        later = len(self.sessions) - 1
        lengths = {name: len(values) for name, values in accuracies.items()}
        if lengths != {"previous_accuracy": later, "untrained_accuracy": later}:
            raise ValueError(f"future_accuracy needs previous_accuracy and untrained_accuracy with {later} values each; got {lengths}.")
        for name, values in accuracies.items():
            self._check_fractions(f"future_accuracy.{name}", dict(enumerate(values)))

    def _check_class_matrix(self, matrix: Sequence[Sequence[float | None]]) -> None:
        seen = list(accumulate(len(session.new_class_names) for session in self.sessions))
        if [len(row) for row in matrix] != seen:
            raise ValueError(f"class_accuracy_matrix must have rows of {seen} values; got {[len(row) for row in matrix]}.")
        for t, row in enumerate(matrix):
            values = np.array(row, float)  # None becomes NaN
            if not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
                self._check_fractions(f"class_accuracy_matrix[{t}]", dict(enumerate(value for value in row if value is not None)))

    @staticmethod
    def _check_fractions(key: str, values: Mapping[Any, float]) -> None:
        wrong = {name: value for name, value in values.items() if not 0 <= value <= 1}
        if wrong:
            raise ValueError(f"{key}: accuracies are fractions from 0 to 1; got {wrong}.")

    @property
    def class_names(self) -> list[str]:
        """All classes in order of arrival."""
        return [name for session in self.sessions for name in session.new_class_names]

    @property
    def first_test_counts(self) -> list[int]:
        """Test images of each session when it ended; `test_counts` are those of today."""
        return self.test_counts if self.test_counts_then is None else [row[-1] for row in self.test_counts_then]

    @property
    def kept_images(self) -> int:
        """Most training images that a memory held after a session: what a run may still see of its past. 0: exemplar-free."""
        return max(session.kept_images for session in self.sessions)

    @property
    def _session_of_class(self) -> list[int]:
        return [session.id for session in self.sessions for _ in session.new_class_names]

    @property
    def per_class_accuracy(self) -> dict[str, float | None] | None:
        """After the last session, by class name."""
        if self.class_accuracy_matrix is None:
            return None
        return dict(zip(self.class_names, self.class_accuracy_matrix[-1], strict=True))

    @cached_property
    def metrics(self) -> dict[str, Metric]:
        """Every metric of `hf_cl.metrics.summarize` by name."""
        return summarize(self)

    @cached_property
    def probe_numbers(self) -> dict[str, float]:
        """The single numbers that probes reported, as `name.key`."""
        return {key: float(v) for key, v in flat(self.probes).items() if isinstance(v, int | float) and not isinstance(v, bool)}

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Every number by name: metrics, those with a value per session as `name[0]`, `name[1]`, ..., marks, and those of probes."""
        found: dict[str, float] = {}
        for name, value in self.metrics.items():
            entries = {f"{name}[{i}]": entry for i, entry in enumerate(value)} if isinstance(value, Sequence) else {name: value}
            found |= {key: entry for key, entry in entries.items() if isinstance(entry, float)}
        return found | self.marks | self.probe_numbers

    @property
    def marks(self) -> dict[str, float]:
        """The comparisons as numbers by name: `mark: nearest class mean, no adapter`."""
        return {f"{MARK}{name}": value for name, value in self.comparisons.items()}

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json, `format_version` first."""
        values = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        computed = {name: getattr(self, name) for name in _COMPUTED}
        return {"format_version": values.pop("format_version"), **values, **computed}

    def save(self, path: str | Path) -> None:
        """Write results.json; whole or not at all."""
        write_atomically(Path(path), text_of(self.to_dict()) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read results.json.

        Raises ValueError, naming the file and the key, for a newer format, a missing or unknown key, a wrong type, NaN, a matrix of the
        wrong shape, and for metrics that do not follow from the matrices; OSError where the file cannot be opened.
        """
        try:
            return cls._read(path)
        except ValueError as error:
            raise ValueError(display_name(str(error), 1000)) from error  # a key or a name in it may be a page long

    @classmethod
    def _read(cls, path: str | Path) -> Results:
        try:
            values = json.loads(Path(path).read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}.") from error
        check_format(path, values)
        computed = {name: values.pop(name, None) for name in _COMPUTED}
        try:
            results = TypeAdapter(cls).validate_json(json.dumps(values), extra="forbid")
        except ValidationError as error:
            raise ValueError(f"{path}: {complaint(error, [f.name for f in fields(cls)])}") from error
        for name in _COMPUTED:
            check_stored(f"{path}: {name}", computed[name], getattr(results, name))
        return results
