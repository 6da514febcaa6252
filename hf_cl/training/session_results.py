"""What is measured at the end of each session, kept so that a resumed run goes on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hf_cl.backbones import TextHead
from hf_cl.contracts import Probe, Session
from hf_cl.metrics import AccuracyMatrix
from hf_cl.probes import StabilityProbe
from hf_cl.results.results import (
    Memory,
    MethodRecord,
    ParameterCounts,
    ProtocolRecord,
    Results,
    SessionRecord,
    Times,
)
from hf_cl.results.table import session_news
from hf_cl.training.checks import has_own_candidates
from hf_cl.training.environment import environment
from hf_cl.training.evaluation import evaluate_candidates, evaluate_session
from hf_cl.training.peak_memory import memory_kind, take_peak_bytes
from hf_cl.training.run import Run


class SessionResults:
    """Evaluates after each session, writes results.json and prints the table."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._matrix = AccuracyMatrix()
        self._sessions: list[dict[str, Any]] = []
        self._training_seconds: list[float] = []
        self._evaluation_seconds: list[float] = []
        self._peak_bytes: list[int] = []
        self._tests: dict[str, Any] = {}
        self._probes: dict[str, dict[str, Any]] = {}
        self._current: Results | None = None

    def add(self, session: Session, training_seconds: float, trained: bool) -> None:
        """Ask the probes, evaluate the present model on the session's tests and record the outcome.

        Raises ValueError for a probe whose report does not go into JSON.
        """
        run, started = self.run, time.perf_counter()
        self._probes = {probe.name: report for probe in run.probes if (report := _report(probe))}
        for name, report in self._probes.items():
            run.records.write("probe", run.position.step, session=session.id, probe=name, report=report)
        sizes = run.config.classes_per_session
        if has_own_candidates(session):
            self._evaluate_candidates(session)
        else:
            self._matrix.add(evaluate_session(run.classifier, run.images, session, sizes, run.accelerator))
        self._training_seconds.append(training_seconds)
        self._evaluation_seconds.append(time.perf_counter() - started)
        self._peak_bytes.append(take_peak_bytes(run.accelerator.device))
        record = {"id": session.id, "new_class_names": list(session.new_class_names), "num_train": len(session.train)}
        self._sessions.append(record | {"num_test": len(session.tests[-1].data), "trained": trained})
        self._publish()

    def _evaluate_candidates(self, session: Session) -> None:
        run = self.run
        unseen = run.scenario.class_names[len(session.class_names) :]
        if unseen and isinstance(run.head, TextHead):
            run.head.name_unseen(unseen)
        names = run.scenario.class_names
        accuracies, counts = evaluate_candidates(run.classifier, run.images, session, names, run.accelerator)
        self._tests = {"test_accuracy": accuracies, "test_counts": counts}

    def _publish(self) -> None:
        run = self.run
        self._current = self._build()
        if run.accelerator.is_main_process:
            self._current.save(run.folder / "results.json")
        metrics = {name: value for name, value in self._current.metrics.items() if isinstance(value, float)}
        run.records.write("session", run.position.step, session=self._sessions[-1]["id"], **metrics)
        run.records.say(session_news(self._current))

    def _build(self) -> Results:
        run = self.run
        trained = any(record["trained"] for record in self._sessions)
        trainable = sum(p.numel() for _, p in run.named_parameters) if trained else 0
        total = sum(p.numel() for p in run.model.parameters())
        seconds = sum(self._training_seconds) + sum(self._evaluation_seconds)
        return Results(
            protocol=protocol_record(run.scenario.protocol),
            seed=run.settings.seed,
            method=MethodRecord(name=run.method.name, title=run.method.title or run.method.name),
            sessions=[SessionRecord(**record) for record in self._sessions],
            **(self._tests or self._matrix.fields()),
            probes=self._probes,
            continual=next((probe.traces for probe in run.probes if isinstance(probe, StabilityProbe)), None),
            parameters=ParameterCounts(trainable=trainable, total=total),
            environment=environment(run.accelerator, run.settings.backbone, run.settings.backbone_revision),
            times=Times(training=self._training_seconds, evaluation=self._evaluation_seconds, total=seconds),
            memory=Memory(memory_kind(run.accelerator.device), self._peak_bytes),
        )

    @property
    def results(self) -> Results:
        """After at least one session."""
        if self._current is None:
            raise RuntimeError("No session has ended yet.")
        return self._current

    def state_dict(self) -> dict[str, Any]:
        return {
            "matrix": self._matrix.fields(),
            "tests": self._tests,
            "probes": self._probes,
            "sessions": self._sessions,
            "training_seconds": self._training_seconds,
            "evaluation_seconds": self._evaluation_seconds,
            "peak_bytes": self._peak_bytes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._matrix, self._tests, self._probes = AccuracyMatrix(**state["matrix"]), dict(state["tests"]), dict(state["probes"])
        self._sessions = list(state["sessions"])
        self._training_seconds, self._evaluation_seconds = list(state["training_seconds"]), list(state["evaluation_seconds"])
        self._peak_bytes = list(state["peak_bytes"])
        if self._sessions:
            self._current = self._build()


def _report(probe: Probe) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists then, keys are text."""
    report = probe.report()
    try:
        if not isinstance(report, dict):
            raise TypeError(f"it gave a {type(report).__name__}")
        return json.loads(json.dumps(report, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Probe {probe.name!r}: report() must give a dict of what JSON can hold, numbers, text, lists, dicts, None: {error}."
        ) from error


def protocol_record(protocol: Mapping[str, Any]) -> ProtocolRecord:
    """A scenario's `protocol` as results.json has it. Raises ValueError for what has no place there."""
    try:
        return TypeAdapter(ProtocolRecord).validate_json(json.dumps(dict(protocol), allow_nan=False))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"The scenario's protocol has {key}: {first['msg']}. Facts that only this scenario has go into its `details`, a dict."
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"The scenario's protocol must be what JSON can hold: {error}.") from error
