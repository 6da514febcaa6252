"""The loop: sessions, phases, epochs, steps. It names no method.

Shapes: B batch, D feature width, S image side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from hf_cl.backbones import ClipClassifier, TextHead, check_class_names, classifier_of, enable_gradient_checkpointing
from hf_cl.checkpoints.adapter_files import save_adapter_files
from hf_cl.checkpoints.position import Position
from hf_cl.checkpoints.signals import StopSignals
from hf_cl.checkpoints.tensors import first_not_finite, snapshot
from hf_cl.checkpoints.times import CheckpointTimes
from hf_cl.contracts import LossTerm, Method, Part, Phase, Probe, Scenario, Session
from hf_cl.errors import TrainingInterruptedError
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.probes import build_probes
from hf_cl.results.composition import composition
from hf_cl.results.results import Results
from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.checks import check_method, check_optimizer, check_parts, check_session, check_strategy
from hf_cl.training.feature_cache import FeatureCache
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.phase_loop import PhaseLoop
from hf_cl.training.records import Records, start_trackers
from hf_cl.training.run_folder import RunFolder
from hf_cl.training.run_state import RunState
from hf_cl.training.services import Services
from hf_cl.training.session_plan import SessionPlan
from hf_cl.training.session_results import SessionResults, protocol_record
from hf_cl.training.step import TrainingDivergedError

ADAPTER = "default"


class SessionLoop(Services):
    """Trains one adapter over the sessions of a scenario.

    Args:
        backbone, processor, tokenizer: the base and what reads its input; the adapter is injected into the base.
        method: what is trained, and how.
        scenario: the sessions, in order.
        settings: batch sizes, precision, folders.
        probes: observers.
        quiet: print no table and no bar; files are written all the same.

    Raises ValueError for a way of launching that shards the model, for class names that the method's text head cannot use, and for a
    scenario without sessions.

    Hooks use the members of `hf_cl.contracts.Trainer`, and nothing else.
    """

    def __init__(
        self,
        backbone: nn.Module,
        processor: Any,
        method: Method,
        scenario: Scenario,
        settings: TrainingSettings,
        probes: Sequence[Probe] = (),
        quiet: bool = False,
        tokenizer: Any = None,
    ) -> None:
        check_method(method)
        check_strategy()
        if tokenizer is not None and method.adapter.has_text_head:
            check_class_names(backbone, method.adapter, tokenizer, scenario.class_names)
        self.method, self.scenario = method, scenario
        self.probes = [*probes, *build_probes(settings.probes, settings.stability_every)]
        protocol_record(scenario.protocol)
        check_parts(SessionPlan(method, scenario), self.probes)
        self.processor, self.quiet, self.tokenizer = processor, quiet, tokenizer
        self.accelerator = RunAccelerator(settings)
        used: Any = self.accelerator.mixed_precision
        self.settings = replace(settings, mixed_precision=used, compile=self.accelerator.compiled_by != "no")  # what the launch said too
        self.folder = Path(settings.output_dir)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.position = Position()
        self._backbone = backbone

    @property
    def classes_per_session(self) -> list[int]:
        """New classes of each session so far, as the adapter's config has them."""
        config: Any = self.model.peft_config[ADAPTER]
        return config.classes_per_session

    # The loop
    def fit(self) -> Results:
        """Train on every session and return the results. With `resume="auto"`, go on where the last checkpoint stands.

        Raises TrainingInterruptedError after SIGTERM or SIGINT, once a checkpoint is written; TrainingDivergedError where a loss is not
        finite; ValueError for a folder that another run has or had, and for what the checks of a session refuse.
        """
        with self.accelerator.current():
            return self._fit()

    def _fit(self) -> Results:
        folder = RunFolder(self.folder, self.accelerator)
        self.plan = SessionPlan(self.method, self.scenario)
        folder.open(self.settings, composition(self.method, self.plan.phases))
        try:
            with StopSignals() as signals:
                self._start(CheckpointTimes(self.settings, self.accelerator, signals))
                for session, phases in zip(self.plan.sessions, self.plan.phases, strict=True):
                    self._enter_session(session, phases)
            self.state.restore_if_due(self)  # a finished run that is asked to resume
            self.accelerator.wait_for_everyone()  # gloo may abort where one process leaves while another still talks
        finally:
            self.accelerator.end_training()
            folder.close()
        return self.results.results

    def _start(self, times: CheckpointTimes) -> None:
        accelerator = self.accelerator
        torch.manual_seed(self.settings.seed)
        if self.settings.report_to:
            start_trackers(accelerator, self.settings.report_to, asdict(self.settings), self.folder)
        self.times = times
        self.records = Records(self.folder, accelerator, self.quiet)
        self.images = ImageStream(self.processor, self.settings, accelerator)
        self.results = SessionResults(self)
        self.state = RunState(self.folder / "checkpoints", accelerator)
        if self.settings.resume == "auto":
            self.position = self.state.find(self)

    def _enter_session(self, session: Session, phases: list[Phase]) -> None:
        self._session, self._phases = session, phases
        if session.id == self.position.session and not self.position.begun:
            self.state.restore_if_due(self)
            self._remember_previous()
        self._grow(session)
        if session.id >= self.position.session:  # else its structure is all that is needed: the values come from the checkpoint
            self._run_session(session)

    def _remember_previous(self) -> None:
        """Before a session changes anything: what its losses know as "previous"."""
        if self._model is not None and any("previous" in term.needs for term in self.terms):
            self.frozen.snapshots["previous"] = snapshot(self.model, self.tuner.prefix, self.head)

    def _grow(self, session: Session) -> None:
        """Class names and head rows of a new session; the first one injects the adapter."""
        names = list(session.new_class_names)
        if self._model is not None:
            if isinstance(self.classifier, ClipClassifier):
                self.classifier.head.grow(names)
            else:
                self.tuner.grow_head(ADAPTER, names)
            return
        config = self.method.adapter
        config.class_names, config.classes_per_session = names, [len(names)]
        model: Any = get_peft_model(self._backbone, config, adapter_name=ADAPTER)  # pyright: ignore[reportArgumentType]
        self._model = model.to(self.accelerator.device)
        if self.settings.gradient_checkpointing:
            enable_gradient_checkpointing(self._backbone)
        self.classifier = classifier_of(model, self.tokenizer, ADAPTER)
        for coming in self.plan.sessions[self.position.session :]:  # so that no mistake waits for a late session
            world, phases = self.accelerator.num_processes, self.plan.phases[coming.id]
            check_session(coming, phases, self.settings, world, self.tuner.roles, isinstance(self.head, TextHead))
        self.frozen = FrozenStates(self.classifier, self.accelerator, self.tuner)
        self.features = FeatureCache(self.images, self.classifier, self.frozen)
        self.statistics = ClassStatistics(self._declared_statistics())

    def _declared_statistics(self) -> frozenset[str]:
        """What heads and parts of any session read of the class statistics beyond counts and means."""
        parts = [*self.plan.losses().values(), *self.method.parts, self.method.rule, *self.probes]
        return self.head.statistics.union(*(part.statistics for part in parts))

    def _run_session(self, session: Session) -> None:
        phases, at = self._phases, self.position
        for part in self.named_parts().values():
            part.begin_session(self, session)
        self.state.check(self)
        made = self.method.optimizer(session, self.named_parameters)
        check_optimizer(made, self.named_parameters, phases)
        self.optimizer, schedule = made
        if at.begun:
            self.state.restore_if_due(self)
            self.features.clear()  # a hook may have asked for features of the model before it was restored
        at.begun = True
        self._started = time.perf_counter() - at.session_seconds
        steps = [p.epochs * self.images.steps_per_epoch(session.train, p) for p in phases]
        done = sum(steps[: at.phase]) + at.batch
        if at.phase < len(phases):
            done += at.epoch * self.images.steps_per_epoch(session.train, phases[at.phase])
        self.records.start_bar(
            f"session {session.id} ({session.id + 1} of {len(self.plan.sessions)})",
            sum(steps),
            done,
            {phase.name: phase.epochs for phase in phases},
        )
        for phase in phases[at.phase :]:
            PhaseLoop(self, phase, schedule).run()
            at.next_phase()
        self.records.stop_bar()
        if self.times.due(at.step, reading=True) or self.probes:  # evaluation may take long, and what observes may raise
            self.checkpoint()
        self._end_session(session)

    def checkpoint(self) -> None:
        """Write one, and stop if a signal asks for it. Raises TrainingDivergedError, and writes none, where a weight is not finite."""
        self._check_finite()
        self.position.session_seconds = time.perf_counter() - self._started if self.position.begun else 0.0
        self.state.save(self)
        self.times.written()
        if self.times.stopping:
            raise TrainingInterruptedError(self.times.stopping, self.state.last)

    def _check_finite(self) -> None:
        """The losses were finite when they were read; what came after them, a hook or an overflow, may have spoilt the weights."""
        spoilt = first_not_finite(self.named_parameters)
        if spoilt is not None:
            raise TrainingDivergedError(
                f"{spoilt} is not finite at step {self.position.step}, although the losses were; does a hook or an optimizer overflow? "
                f"Last good checkpoint: {self.state.last}."
            )

    def _end_session(self, session: Session) -> None:
        self._check_finite()
        seconds, trained = time.perf_counter() - self._started, self.position.session_step > 0
        for part in self.named_parts().values():
            part.before_statistics(self, session)
        for part in self.named_parts().values():
            part.end_session(self, session)
        self.features.clear()
        self.results.add(session, seconds, trained)
        self.save_adapter(self.folder / "adapters" / f"session-{session.id}")
        self.position.next_session()
        self.times.agree_to_stop(self.position.step)
        self.checkpoint()

    def save_adapter(self, folder: Path) -> None:
        """Adapter, head, class names and image processor, as every loading route wants them."""
        if self.accelerator.is_main_process:
            save_adapter_files(folder, self.model, self.processor, self.tokenizer)
        self.accelerator.wait_for_everyone()

    # Names of what trains and of what has state
    @property
    def terms(self) -> list[LossTerm]:
        """The loss terms of the session's phases, each once."""
        return list({id(term): term for phase in self._phases for term in phase.losses}.values())

    def named_parts(self) -> dict[str, Part]:
        """Everything with hooks, each once, in the order in which it is called: head, losses, other parts, rule, probes."""
        parts: dict[str, Part] = {"head": self.head} if isinstance(self.head, Part) else {}
        parts |= {f"losses.{term.name}": term for term in self.terms}
        parts |= {f"parts.{i}": part for i, part in enumerate(self.method.parts) if all(part is not term for term in self.terms)}
        parts["rule"] = self.method.rule
        return parts | {f"probes.{probe.name}": probe for probe in self.probes}

    def parts_of(self, phase: Phase) -> list[Part]:
        """What is told of epochs and steps: everything but the losses of other phases that are no parts of the method."""
        told = [*phase.losses, *self.method.parts]
        resting = {f"losses.{term.name}" for term in self.terms if all(term is not part for part in told)}
        return [part for name, part in self.named_parts().items() if name not in resting]
