"""sessions.jsonl: what a run has measured so far, a line per session that is only ever appended.

results.json is made from it, at the end of a run and now and then before; a checkpoint holds how many lines it knows, and their digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_cl.metrics import AccuracyMatrix, CalibrationBins, Metric, SessionCounts, expected_calibration_error, summarize_tests
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.result_records import SessionRecord, Times
from hf_cl.results.results import Results

FILE = "sessions.jsonl"
_OF_SESSION = ("id", "new_class_names", "num_train", "num_test", "trained", "kept_images", "temperature")


class History:
    """The sessions that have ended, in order.

    A line holds what `SessionRecord` does, `training_seconds`, `evaluation_seconds`, `peak_bytes`, `calibration` (`CalibrationBins`), and
    `counts` (the arrays of `SessionCounts`; how classes were confused is kept of the latest evaluation alone, in checkpoints) or `tests`
    (`test_accuracy` and `test_counts`, for tests with candidates of their own).

    Args:
        path: where lines are appended; None on processes that do not write.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.matrix = path, AccuracyMatrix()
        self._records: list[dict[str, Any]] = []
        self._sizes: list[int] = []  # new classes of each session
        self._errors: list[float | None] = []  # of calibration, after each session
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: Mapping[str, Any], counts: SessionCounts | None) -> None:
        """Append a session, with the counts of its evaluation where its tests make a matrix; on the disk when this returns."""
        whole = {**record, "counts": counts.record()} if counts is not None else dict(record)
        line = json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n"
        self._keep(record, counts, line)
        if self.path is not None:
            with self.path.open("a" if len(self) > 1 else "w", encoding="utf-8") as file:  # a killed run may have left a first line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def replay(self, lines: Sequence[str]) -> None:
        """Add lines of a file, up to the first torn one."""
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                return
            counts = record.get("counts")
            sizes = [*self._sizes, len(record["new_class_names"])]
            self._keep(record, None if counts is None else SessionCounts.from_record(sizes, counts), line)

    def _keep(self, record: Mapping[str, Any], counts: SessionCounts | None, line: str) -> None:
        if counts is not None:
            first = self._records[0] if self._records else record
            self.matrix.add(counts, started_from=not first["num_train"])
        self._records.append({key: value for key, value in record.items() if key != "counts"})
        self._sizes.append(len(record["new_class_names"]))
        self._errors.append(expected_calibration_error(CalibrationBins(**record["calibration"])))
        self._digest.update(line.encode())

    def metrics(self) -> dict[str, Metric]:
        """What `Results.metrics` says of the same sessions, kept up to date; without those of probes."""
        tests = self._records[-1].get("tests")
        found = self.matrix.metrics() if tests is None else summarize_tests(tests["test_accuracy"])
        return found | {"expected_calibration_error": [*self._errors]}

    def fields(self) -> dict[str, Any]:
        """Arguments of `Results`: sessions and what was measured."""
        tests = self._records[-1].get("tests")
        bins = [CalibrationBins(**record["calibration"]) for record in self._records]
        sessions = [SessionRecord(**{key: record[key] for key in _OF_SESSION if key in record}) for record in self._records]
        return {"calibration": bins, "sessions": sessions} | (self.matrix.fields() if tests is None else dict(tests))

    def of_each(self, key: str) -> list[Any]:
        """An entry of all lines, such as `peak_bytes`."""
        return [record[key] for record in self._records]

    @property
    def times(self) -> Times:
        training, evaluation = self.of_each("training_seconds"), self.of_each("evaluation_seconds")
        return Times(training, evaluation, sum(training) + sum(evaluation))

    # Resuming
    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it: the lines stay in their file."""
        return {"sessions": len(self), "sha256": self._digest.hexdigest(), "confusions": self.matrix.confusions()}

    def load_state_dict(self, state: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Go on from a checkpoint with the lines of the file; those that came after it are cut off.

        Raises ValueError where the lines are not those that the checkpoint knows.
        """
        known = lines[: state["sessions"]]
        self.replay(known)
        if self._digest.hexdigest() != state["sha256"]:
            raise ValueError(
                f"{FILE} of the run folder does not hold the {state['sessions']} sessions that the checkpoint knows; put it back as the "
                "run left it, or choose another output_dir."
            )
        self.matrix.restore_confusions(state["confusions"])
        if self.path is not None and len(lines) != len(known):
            write_atomically(self.path, "".join(known))


def read_lines(path: Path) -> list[str]:
    """The lines with their ends; none where there is no such file. The last one may be torn."""
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []


def brought_up_to_date(results: Results, path: Path) -> Results:
    """`results` with the sessions of the file at `path` that ended after results.json was written; of how classes were confused then,
    only the run's end tells."""
    lines = read_lines(path)
    if len(lines) <= len(results.sessions):
        return results
    history = History()
    history.replay(lines)
    if len(history) <= len(results.sessions):
        return results
    memory = None if results.memory is None else replace(results.memory, peak_bytes=history.of_each("peak_bytes"))
    unknown = {"session_confusion": None, "confused_pairs": None}
    return replace(results, **{**history.fields(), **unknown}, times=history.times, memory=memory)
