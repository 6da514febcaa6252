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
from accelerate.utils import broadcast_object_list
from torch import nn

from hf_cl.backbones import EncodedNames, check_class_names, reads_texts, texts_of
from hf_cl.checkpoints.adapter_files import remove_adapters, save_adapter_files
from hf_cl.checkpoints.signals import StopSignals
from hf_cl.checkpoints.statistics_files import SavedStatistics, training_state
from hf_cl.checkpoints.tensors import first_not_finite, snapshot
from hf_cl.checkpoints.times import CheckpointTimes
from hf_cl.contracts import Method, Phase, Probe, Scenario, Session
from hf_cl.errors import TrainingInterruptedError
from hf_cl.images import PixelStore
from hf_cl.memory.joined import joined
from hf_cl.probes import build_probes
from hf_cl.results.composition import composition
from hf_cl.results.results import Results
from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.checks import check_method, check_parts, check_strategy, check_unused
from hf_cl.training.deterministic import deterministic
from hf_cl.training.growth import grow
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.marks import Marks, check_marks
from hf_cl.training.optimizer_state import carry_over, state_by_name
from hf_cl.training.phase_loop import PhaseLoop
from hf_cl.training.pixel_store import open_store
from hf_cl.training.records import Records, start_trackers
from hf_cl.training.run_folder import RunFolder
from hf_cl.training.run_state import RunState
from hf_cl.training.services import Services
from hf_cl.training.session_checks import check_optimizer
from hf_cl.training.session_plan import SessionPlan
from hf_cl.training.session_results import SessionResults, protocol_record
from hf_cl.training.start import Start
from hf_cl.training.step import TrainingDivergedError


class SessionLoop(Services):
    """Trains one adapter over the sessions of a scenario.

    Args:
        backbone, processor, tokenizer: the base and what reads its input; the adapter is injected into the base.
        method: what is trained, and how.
        scenario: the sessions, in order.
        settings: batch sizes, precision, folders.
        probes: observers.
        quiet: print no table and no bar; files are written all the same.
        accelerator, store: made before, where pictures were decoded before training (`hf_cl.training.pixel_store.open_store`).
        start: an adapter to go on from (`hf_cl.training.start.open_start`); session 0 of the scenario has its classes, and is not trained.

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
        accelerator: RunAccelerator | None = None,
        store: PixelStore | None = None,
        start: Start | None = None,
    ) -> None:
        check_method(method)
        check_strategy()
        check_unused(backbone)
        texts = _texts(backbone, method, scenario, settings, tokenizer)
        protocol_record(scenario.protocol)
        self._store = store
        probes = [*probes, *build_probes(settings.probes, settings.stability_every)]
        plan = SessionPlan(method, scenario, settings.batch_size, resumed=settings.resume is not None)
        check_parts(plan, probes)
        method.adapter.check_domains(plan.sessions[-1].domain_names)
        check_marks(settings.marks, plan.sessions)
        accelerator = accelerator or RunAccelerator(settings)
        used: Any = accelerator.mixed_precision
        super().__init__(
            backbone=backbone,
            processor=processor,
            tokenizer=tokenizer,
            method=method,
            scenario=scenario,
            settings=replace(settings, mixed_precision=used, compile=accelerator.compiled_by != "no"),  # what the launch said too
            probes=probes,
            quiet=quiet,
            plan=plan,
            texts=texts,
            start=start,
            accelerator=accelerator,
            generator=torch.Generator().manual_seed(settings.seed),
        )

    # The loop
    def fit(self) -> Results:
        """Train on every session and return the results. With `resume="auto"`, go on where the last checkpoint stands.

        Raises TrainingInterruptedError after SIGTERM or SIGINT, once a checkpoint is written; TrainingDivergedError where a loss is not
        finite; ValueError for a folder that another run has or had, and for what the checks of a session refuse.
        """
        with self.accelerator.current(), deterministic(self.settings.deterministic):
            return self._fit()

    def _fit(self) -> Results:
        folder = RunFolder(self.folder, self.accelerator)
        if self.plan.method is not self.method or self.memory is not None:  # another one was set, or a run of it has gone before
            resumed = self.settings.resume is not None
            self.plan = SessionPlan(self.method, self.scenario, self.settings.batch_size, resumed=resumed)
        folder.open(self.settings, composition(self.method, self.plan.phases))
        try:
            with StopSignals() as signals:
                self._start(CheckpointTimes(self.settings, self.accelerator, signals))
                for session, phases in zip(self.plan.sessions, self.plan.phases, strict=True):
                    self._enter_session(session, phases)
            self.state.restore_if_due(self, self.results)  # a finished run that is asked to resume
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
        self.times, self.carried = times, {}
        self.records = Records(self.folder, accelerator, self.quiet)
        self.images = ImageStream(self._store or open_store(self.processor, self.settings, accelerator), self.settings, accelerator)
        self.results, self.marks = SessionResults(self), Marks(self.settings.marks)
        self.state = RunState(self.folder / "checkpoints", accelerator)
        if self.settings.resume == "auto":
            self.position = self.state.find(self)

    def _enter_session(self, session: Session, phases: list[Phase]) -> None:
        self._session, self.phases = session, phases
        if session.id >= self.position.session and self.memory is not None:
            both = joined(session.train, self.memory.images(session))
            count = 0 if self.memory.replay else len(both) - len(session.train)
            self._session = session = replace(session, joined=count, joined_images=both)
        if session.id == self.position.session and not self.position.begun:
            self.state.restore_if_due(self, self.results)
            self._remember_previous()
        grow(self, session)
        if session.id < self.position.session:
            return  # its structure is all that is needed: the values come from the checkpoint
        if session.id == 0 and self.start is not None:
            self._leave_session(session, 0.0, trained=False)
        else:
            self._run_session(session)

    def _remember_previous(self) -> None:
        """Before a session changes anything: what its losses know as "previous"."""
        if self._model is not None and any(term.needs & {"previous", "previous_if_any"} for term in self.terms):
            self.frozen.snapshots["previous"] = snapshot(self.model, self.tuner.prefix, self.head)

    def _run_session(self, session: Session) -> None:
        phases, at = self.phases, self.position
        self.config.temperature = None  # that of the last session: what judges frozen states compares logits as they are trained
        self.features.trained = session.training_images
        for part in self.named_parts().values():
            part.begin_session(self, session)
        self.state.check(self)
        made = self.method.optimizer(session, self.named_parameters)
        check_optimizer(made, self.named_parameters, phases)
        self.optimizer, schedule = made
        if self.method.optimizer_lasts == "run":
            carry_over(self.carried, self.optimizer, self.named_parameters)
        if at.begun:
            self.state.restore_if_due(self, self.results)
            self.features.clear()  # a hook may have asked for features of the model before it was restored
        at.begun = True
        self._started = time.perf_counter() - at.session_seconds
        per_epoch = [session.steps_per_epoch(p.batch_size) * p.updates_per_batch for p in phases]
        steps = [p.epochs * count for p, count in zip(phases, per_epoch, strict=True)]
        done = sum(steps[: at.phase]) + at.batch
        if at.phase < len(phases):
            done += at.epoch * per_epoch[at.phase]
        self.records.start_bar(
            f"session {session.id} ({session.id + 1} of {len(self.plan.sessions)})",
            sum(steps),
            done,
            {phase.name: phase.epochs for phase in phases},
        )
        for phase in phases[at.phase :]:
            PhaseLoop(self, phase, schedule, self.checkpoint).run()
            at.next_phase()
        self.records.stop_bar()
        if self.times.due(at.step, reading=True) or self.probes:  # evaluation may take long, and what observes may raise
            self.checkpoint()
        self._end_session(session)

    def checkpoint(self) -> None:
        """Write one, and stop if a signal asks for it. Raises TrainingDivergedError, and writes none, where a weight is not finite."""
        self._check_finite()
        self.position.session_seconds = time.perf_counter() - self._started if self.position.begun else 0.0
        self.state.save(self, self.results)
        self.times.written()
        if self.times.stopping:
            raise TrainingInterruptedError(self.times.stopping, self.last_checkpoint)

    def _check_finite(self) -> None:
        """The losses were finite when they were read; what came after them, a hook or an overflow, may have spoilt the weights."""
        spoilt = first_not_finite(self.named_parameters)
        if spoilt is not None:
            raise TrainingDivergedError(
                f"{spoilt} is not finite at step {self.position.step}, although the losses were; does a hook or an optimizer overflow? "
                f"Last good checkpoint: {self.last_checkpoint}."
            )

    def _end_session(self, session: Session) -> None:
        self._check_finite()
        seconds, trained = time.perf_counter() - self._started, self.position.session_step > 0
        for part in self.named_parts().values():
            part.before_statistics(self, session)
        self.features.doubt()  # a part may have undone what was trained
        self.calibration.begin(self.head)
        for part in self.named_parts().values():
            part.end_session(self, session)
        self._calibrate(session)
        if self.settings.export_statistics:
            self.class_statistics(session)  # counted by now, unless no head or part reads them
        self.marks.add(self, session)
        self._leave_session(session, seconds, trained)

    def _leave_session(self, session: Session, seconds: float, trained: bool) -> None:
        """Measure it, and write its adapter and a checkpoint."""
        self.features.doubt(session.train, session.training_images)
        if self.method.optimizer_lasts == "run" and self.optimizer is not None:
            self.carried = state_by_name(self.optimizer, self.named_parameters)
        self.results.add(session, seconds, trained)
        if session is self.plan.sessions[-1]:
            self.results.compare(self.marks)
        self.save_adapter(self.folder / "adapters" / f"session-{session.id}")
        if session.id == 0 and self.start is None:  # not in a user's hands, when all sessions are trained
            self._check_adapter(self.folder / "adapters" / "session-0")
        self.position.next_session()
        self.times.agree_to_stop(self.position.step)
        self.checkpoint()

    def _calibrate(self, session: Session) -> None:
        """Let images that were held out say by what logits are divided from here on; all processes take what the main one has found."""
        found = [self.calibration.end(self, self.classifier, session)]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(found)
        self.config.temperature = found[0]

    def _check_adapter(self, folder: Path) -> None:
        """Raise ValueError, on every process, where the adapter of session 0 cannot be loaded."""
        bare, self.bare = self.bare, None
        refusals = [bare.refusal(folder) if bare is not None and self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(refusals)
        if refusals[0] is not None:
            raise ValueError(refusals[0])

    def save_adapter(self, folder: Path) -> None:
        """Adapter, head, class names and image processor, as every loading route wants them."""
        if self.accelerator.is_main_process:
            saved = None
            if self.settings.export_statistics:
                saved = SavedStatistics(self.statistics, tuple(self.config.class_names), training_state(self.head))
            more = {name: content for part in self.named_parts().values() for name, content in part.adapter_files().items()}
            save_adapter_files(folder, self.model, self.processor, self.tokenizer, saved, more)
            remove_adapters(folder.parent, self.settings.keep_adapters, self.session.id)
        self.accelerator.wait_for_everyone()


def _texts(backbone: Any, method: Method, scenario: Scenario, settings: TrainingSettings, tokenizer: Any) -> EncodedNames | None:
    """What the class names say, for a head that reads it. Raises ValueError for names that a text head cannot use."""
    adapter = method.adapter
    if tokenizer is not None and adapter.has_text_head:
        check_class_names(backbone, adapter, tokenizer, scenario.class_names)
    if not reads_texts(adapter.head):
        return None
    return texts_of(adapter.head, backbone.name_or_path, scenario.class_names, revision=settings.backbone_revision)
