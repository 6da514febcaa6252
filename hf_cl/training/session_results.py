"""What is measured at the end of each session, kept so that a resumed run goes on with it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from accelerate.utils import broadcast_object_list
from pydantic import TypeAdapter, ValidationError

from hf_cl.backbones import TextHead
from hf_cl.checkpoints.tensors import digest_before_head
from hf_cl.contracts import Part, Probe, Session
from hf_cl.metrics import SessionCounts, StabilityTraces, summarize_traces
from hf_cl.probes import StabilityProbe
from hf_cl.results.class_confusion import write_confusion
from hf_cl.results.examples import FEW, MANY
from hf_cl.results.history import FILE, History, read_lines
from hf_cl.results.results import Memory, MethodRecord, ParameterCounts, ProtocolRecord, Results
from hf_cl.results.table import accuracy_of_tests, session_news
from hf_cl.training.environment import environment
from hf_cl.training.evaluation import Tested, evaluate_candidates, evaluate_session
from hf_cl.training.kept_features import KeptFeatures
from hf_cl.training.marks import Marks
from hf_cl.training.needs import has_own_candidates
from hf_cl.training.peak_memory import memory_kind, take_peak_bytes
from hf_cl.training.services import Services

OFTEN = 10
"""results.json is written after each of the first 20 sessions, then whenever a tenth as many have come: all writings together cost no
more than a few times the last one, and who reads it in between takes what is missing from sessions.jsonl."""


class SessionResults:
    """Evaluates after each session, appends it to sessions.jsonl, says how it went, and writes results.json when that is due."""

    def __init__(self, run: Services) -> None:
        self.run = run
        self._history = History(run.folder / FILE if run.accelerator.is_main_process else None)
        self._kept = KeptFeatures(run.images)
        self._probes: dict[str, dict[str, Any]] = {}
        self._current: Results | None = None
        self._comparisons: dict[str, float] = {}

    def add(self, session: Session, training_seconds: float, trained: bool) -> None:
        """Ask probes and parts what they found, evaluate the present model on the session's tests and record the outcome.

        Raises ValueError for a report that does not go into JSON.
        """
        run, started = self.run, time.perf_counter()
        self._probes = {part.name: report for part in run.named_parts().values() if (report := _report(part))}
        for name, report in self._probes.items():
            run.records.write("probe", run.position.step, session=session.id, probe=name, report=report)
        record: dict[str, Any] = {"id": session.id, "new_class_names": [*session.new_class_names]}
        counts: SessionCounts | None = None
        examples = MANY if len(self._history) + 1 == len(run.plan.sessions) else FEW  # of those in between none may ever be seen
        if has_own_candidates(session):
            tested = self._evaluate_candidates(session, examples)
            record["tests"] = {"test_accuracy": tested.accuracy, "test_counts": tested.counts}
            record["calibration"] = asdict(tested.calibration)
        else:
            rests = self._kept.rests(digest_before_head(run.model, run.tuner.prefix, run.head))
            kept = self._kept if rests and not run.head.reads_given else None  # features alone do not say what such a head reads
            self._kept.shelf = run.features.shelf() if kept is not None else None
            sizes = [len(s.new_class_names) for s in run.plan.sessions[: session.id + 1]]
            counts, bins = evaluate_session(run.classifier, run.images, session, sizes, run.accelerator, kept, examples, run.queries)
            record["calibration"] = asdict(bins)
        taken_over = run.start is not None and session.id == 0
        record |= {"num_train": 0 if taken_over else len(session.train), "num_test": len(session.tests[-1].data), "trained": trained}
        own = run.head.own_temperature
        record["temperature"] = run.config.temperature if own is None else own
        record["kept_images"] = 0 if run.memory is None else len(run.memory)
        peak = take_peak_bytes(run.accelerator.device)
        measured = [{"training_seconds": training_seconds, "evaluation_seconds": time.perf_counter() - started, "peak_bytes": peak}]
        if run.accelerator.num_processes > 1:  # those of the main process, which writes them: a checkpoint of any knows the same lines
            broadcast_object_list(measured)
        record |= measured[0]
        self._history.add(record, counts)
        self._current = None
        self._publish(session, counts)

    def compare(self, marks: Marks) -> None:
        """Measure the marks on the tests of the last session, and put them beside the run."""
        self._comparisons = marks.accuracies(self.run, self.run.session, self._kept)
        self._current = None
        if self._comparisons and self.run.accelerator.is_main_process:
            self.results.save(self.run.folder / "results.json")

    def _evaluate_candidates(self, session: Session, examples: int) -> Tested:
        run = self.run
        unseen = run.scenario.class_names[len(session.class_names) :]
        if unseen and isinstance(run.head, TextHead):
            run.head.name_unseen(unseen)
        names = run.scenario.class_names
        return evaluate_candidates(run.classifier, run.images, session, names, run.accelerator, examples, run.queries)

    def _publish(self, session: Session, counts: SessionCounts | None) -> None:
        run, ended = self.run, len(self._history)
        last = ended == len(run.plan.sessions)
        if run.accelerator.is_main_process and (last or ended % max(1, ended // OFTEN) == 0):
            self.results.save(run.folder / "results.json")
            if counts is not None:
                write_confusion(run.folder, counts.confusion)
        metrics = self._history.metrics() | (summarize_traces(traces) if (traces := self._traces) is not None else {})
        numbers = {name: value for name, value in metrics.items() if isinstance(value, float)}
        run.records.write("session", run.position.step, session=session.id, **numbers)
        run.records.say(accuracy_of_tests(self.results) if has_own_candidates(session) else session_news(metrics))

    @property
    def _traces(self) -> StabilityTraces | None:
        return next((probe.traces for probe in self.run.probes if isinstance(probe, StabilityProbe)), None)

    def _build(self) -> Results:
        run = self.run
        trained = any(self._history.of_each("trained"))
        trainable = sum(p.numel() for _, p in run.named_parameters) if trained else 0
        total = sum(p.numel() for p in run.model.parameters())
        return Results(
            protocol=protocol_record(run.scenario.protocol),
            seed=run.settings.seed,
            method=MethodRecord(name=run.method.name, title=run.method.title or run.method.name),
            **self._history.fields(),
            probes=self._probes,
            comparisons=self._comparisons,
            continual=self._traces,
            parameters=ParameterCounts(trainable=trainable, total=total),
            environment=environment(run.accelerator, run.settings.backbone, run.settings.backbone_revision),
            times=self._history.times,
            memory=Memory(memory_kind(run.accelerator.device), self._history.of_each("peak_bytes")),
        )

    @property
    def results(self) -> Results:
        """After at least one session; made when somebody asks."""
        if not len(self._history):
            raise RuntimeError("No session has ended yet.")
        if self._current is None:
            self._current = self._build()
        return self._current

    def state_dict(self) -> dict[str, Any]:
        kept = {"probes": self._probes, "before_head": self._kept.digest, "comparisons": self._comparisons}
        return {"history": self._history.state_dict(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError where sessions.jsonl is not what the run left."""
        lines = [read_lines(self.run.folder / FILE) if self.run.accelerator.is_main_process else []]
        if self.run.accelerator.num_processes > 1:
            broadcast_object_list(lines)
        self._history.load_state_dict(state["history"], lines[0])
        self._probes, self._current = dict(state["probes"]), None
        self._kept.digest, self._comparisons = state["before_head"], dict(state["comparisons"])


def _report(part: Part) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists then, keys are text."""
    report = part.report()
    try:
        if not isinstance(report, dict):
            raise TypeError(f"it gave a {type(report).__name__}")
        return json.loads(json.dumps(report, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{'Probe' if isinstance(part, Probe) else type(part).__name__} {part.name!r}: report() must give a dict of what JSON can "
            f"hold, numbers, text, lists, dicts, None: {error}."
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
