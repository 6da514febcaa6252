"""The loop: sessions, phases, epochs, steps. It names no method.

Shapes: B batch, D feature width, S image side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_cl.backbones import ClipClassifier, FeatureClassifier, TextHead, classifier_of, enable_gradient_checkpointing
from hf_cl.contracts import (
    FeatureSet,
    Head,
    ImageDataset,
    LossTerm,
    Method,
    NamedParameters,
    Part,
    Phase,
    Probe,
    Scenario,
    Schedule,
    Session,
)
from hf_cl.heads import ClassStatistics
from hf_cl.training.atomic_write import write_atomically
from hf_cl.training.checks import check_method, check_session, check_tests, num_views
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.position import Position
from hf_cl.training.prepare import prepare_phase, release_phase
from hf_cl.training.records import Records
from hf_cl.training.results import Results
from hf_cl.training.run_state import RunState
from hf_cl.training.session_results import SessionResults
from hf_cl.training.settings import TrainingSettings
from hf_cl.training.step import Stepper, TrainingDivergedError
from hf_cl.training.tensors import named_parameters, snapshot

ADAPTER = "default"


class ContinualTrainer:
    """Trains one adapter over the sessions of a scenario.

    Args:
        backbone: the base, from `hf_cl.backbones.load_backbone` or any `...ForImageClassification` model; the adapter is injected into it.
        processor: its Hugging Face image processor; evaluation uses it and it is saved beside every adapter.
        method: what is trained, and how (`hf_cl.methods`, or a composition of your own).
        scenario: the sessions, in order.
        settings: batch sizes, precision, folders.
        probes: observers.
        quiet: print no table and no bar; files are written all the same.
        tokenizer: the base's own, for text heads; saved beside every adapter.

    Hooks use `model`, `tuner`, `head`, `accelerator`, `generator`, `session`, `features_of`, `class_statistics`, and nothing else.
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
        self.method, self.scenario, self.settings, self.probes = method, scenario, settings, list(probes)
        self.processor, self.quiet, self.tokenizer = processor, quiet, tokenizer
        dynamo = TorchDynamoPlugin(backend="inductor") if settings.compile else None  # pyright: ignore[reportArgumentType]
        self.accelerator = Accelerator(
            mixed_precision=settings.mixed_precision,
            cpu=settings.cpu,
            log_with=settings.report_to or None,  # pyright: ignore[reportArgumentType]
            project_dir=settings.output_dir,
            dynamo_plugin=dynamo,
        )
        self.folder = Path(settings.output_dir)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.statistics = ClassStatistics(covariance=False)
        self.position = Position()
        self._backbone = backbone
        self._model: PeftModel | None = None
        self._session: Session | None = None
        self._features: dict[tuple[int, bool], FeatureSet] = {}

    # What hooks may use
    @property
    def model(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("The adapter is injected when the first session begins; call fit() first.")
        return self._model

    @property
    def tuner(self) -> Any:
        return self.model.base_model

    @property
    def head(self) -> Head:
        return self.classifier.head

    @property
    def classes_per_session(self) -> list[int]:
        """New classes of each session so far, as the adapter's config has them."""
        config: Any = self.model.peft_config[ADAPTER]
        return config.classes_per_session

    @property
    def session(self) -> Session:
        if self._session is None:
            raise RuntimeError("No session has begun; call fit() first.")
        return self._session

    def features_of(self, dataset: ImageDataset, *, augment: bool = False) -> FeatureSet:
        """Features of a whole data set: eval mode, no gradient, gathered over the processes, on the device.

        With `augment` the images are drawn as the current epoch draws them. Computed once as long as nothing trains in between.
        """
        key = (id(dataset), augment)
        if key not in self._features:
            epoch = self.position.session_epoch if augment else None
            self._features[key] = self.images.features(self.classifier, dataset, epoch=epoch)
        return self._features[key]

    def class_statistics(self, session: Session) -> ClassStatistics:
        """The run's one store of class statistics, with those of `session`'s classes added by the present model if they are missing."""
        new = range(session.first_new_class, len(session.class_names))
        if not set(new) <= set(self.statistics.classes):
            data = self.features_of(session.train)
            with torch.no_grad():
                self.statistics.update(self.head.embed(data.features), data.labels)
        return self.statistics

    # The loop
    def fit(self) -> Results:
        """Train on every session and return the results. With `resume="auto"`, go on where the last checkpoint stands."""
        self._start()
        for session in self.scenario:
            self._session = session
            self._phases = [phase for phase in self.method.phases(session) if phase.epochs > 0]
            if session.id == self.position.session and not self.position.begun:
                self.state.restore_if_due(self)
                self._remember_previous()
            self._grow(session)
            if session.id >= self.position.session:  # else its structure is all that is needed: the values come from the checkpoint
                self._run_session(session)
        self.state.restore_if_due(self)  # a finished run that is asked to resume
        self.accelerator.end_training()
        return self.results.results

    def _start(self) -> None:
        accelerator = self.accelerator
        torch.manual_seed(self.settings.seed)
        if accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / "config.yaml", yaml.safe_dump(asdict(self.settings), sort_keys=False, allow_unicode=True))
        accelerator.wait_for_everyone()
        if self.settings.report_to:
            accelerator.init_trackers("hf_cl")
        self.records = Records(self.folder, accelerator, self.quiet)
        self.images = ImageStream(self.processor, self.settings, accelerator)
        self.results = SessionResults(self)
        self.state = RunState(self.folder / "checkpoints", accelerator)
        if self.settings.resume == "auto":
            self.position = self.state.find(self.records)

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
        self.frozen = FrozenStates(self.classifier, self.accelerator, self.tuner)

    def _run_session(self, session: Session) -> None:
        phases, at = self._phases, self.position
        check_session(session, phases, self.settings, self.accelerator.num_processes, self.tuner.roles)
        check_tests(session, isinstance(self.head, TextHead))
        for part in self.named_parts().values():
            part.begin_session(self, session)
        self.optimizer, schedule = self.method.optimizer(session, self.named_parameters)
        if at.begun:
            self.state.restore_if_due(self)
            self._features.clear()  # a hook may have asked for features of the model before it was restored
        at.begun = True
        started, first_step = time.perf_counter(), at.step
        steps = [p.epochs * self.images.steps_per_epoch(session.train, p) for p in phases]
        done = sum(steps[: at.phase]) + at.batch
        if at.phase < len(phases):
            done += at.epoch * self.images.steps_per_epoch(session.train, phases[at.phase])
        self.records.start_bar(f"session {session.id}", sum(steps), done)
        for phase in phases[at.phase :]:
            self._run_phase(session, phase, schedule)
            at.next_phase()
        self.records.stop_bar()
        self._end_session(session, time.perf_counter() - started, trained=at.step > first_step)

    def _run_phase(self, session: Session, phase: Phase, schedule: Schedule) -> None:
        at, named = self.position, self.named_parameters
        for name, parameter in named:
            parameter.requires_grad_(phase.trainable(name))
        if isinstance(self.classifier, ClipClassifier):  # the texts of earlier classes are encoded only where a loss reads their columns
            everything = any("all_classes" in term.needs for term in phase.losses)
            self.classifier.head.training_classes = None if everything else range(session.first_new_class, len(session.class_names))
        bare = self.classifier if phase.inputs == "images" else FeatureClassifier(self.head)
        model, optimizer = prepare_phase(self.accelerator, bare, self.optimizer)
        stepper = Stepper(
            phase, session, self.method.rule, model, optimizer, named, self.accelerator, self.method.max_grad_norm, self.frozen.run
        )
        for epoch in range(at.epoch, phase.epochs):
            if phase.refresh == "epoch":
                self._features.clear()
            if at.batch == 0:
                for part in self._parts_of(phase):
                    part.begin_epoch(self, epoch)
            model.train()
            self._run_epoch(session, phase, stepper, schedule)
            at.next_epoch()
        release_phase(self.accelerator, model)
        self._features.clear()

    def _run_epoch(self, session: Session, phase: Phase, stepper: Stepper, schedule: Schedule) -> None:
        at, settings = self.position, self.settings
        features = self.features_of(session.train, augment=True) if phase.inputs == "features" else None
        key = (settings.seed, session.id, at.phase, at.epoch)
        size = phase.batch_size or settings.batch_size
        steps = self.images.steps(
            session.train, key, size=size, epoch=at.session_epoch, start=at.batch, views=num_views(phase), features=features
        )
        rates: Sequence[float] = ()
        parts = self._parts_of(phase)
        for micro_batches in steps:
            rates = schedule(at.session_epoch, at.batch)
            taken = stepper.step(micro_batches, at.epoch, at.step, rates)
            at.batch, at.step = at.batch + 1, at.step + 1
            if phase.inputs == "images":
                self._features.clear()
            if taken:
                for part in parts:
                    part.after_step(self)
            self.records.advance()
            due = settings.checkpoint_steps is not None and at.step % settings.checkpoint_steps == 0
            if due or at.step % settings.logging_steps == 0:
                self._read(stepper, phase, rates)  # before a checkpoint: none is written of a run that has diverged
            if due:
                self.state.save(self)
        self._read(stepper, phase, rates)

    def _read(self, stepper: Stepper, phase: Phase, rates: Sequence[float]) -> None:
        """Read the losses, write them down, and stop the run where one was not finite."""
        at = self.position
        losses, first_bad = stepper.read()
        if first_bad is not None:
            samples = self.images.samples_of_step(self.session.train, at.batch - (at.step - first_bad))
            raise TrainingDivergedError(
                f"A loss or gradient was not finite at step {first_bad} (session {self.session.id}, phase {phase.name}), on the samples "
                f"with index {samples}. Nothing was saved since; last good checkpoint: {self.state.last}."
            )
        if losses:
            values: dict[str, Any] = {f"loss_{name}": value for name, value in losses.items()}
            values |= {f"learning_rate_{i}": rate for i, rate in enumerate(rates)}
            self.records.write("train", at.step, session=self.session.id, phase=phase.name, epoch=at.epoch, **values)
            self.records.note("  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

    def _end_session(self, session: Session, seconds: float, trained: bool) -> None:
        for part in self.named_parts().values():
            part.end_session(self, session)
        self._features.clear()
        for probe in self.probes:
            self.records.write("probe", self.position.step, session=session.id, probe=probe.name, report=probe.report())
        self.results.add(session, seconds, trained)
        self.save_adapter(self.folder / "adapters" / f"session-{session.id}")
        self.position.next_session()
        self.state.save(self)

    def save_adapter(self, folder: Path) -> None:
        """Adapter, head, class names and image processor, as every loading route wants them."""
        if self.accelerator.is_main_process:
            self.model.save_pretrained(str(folder), save_embedding_layers=False)  # peft would look on the Hub for a vocabulary
            self.processor.save_pretrained(str(folder))
            if isinstance(self.tokenizer, PreTrainedTokenizerBase):  # open_clip's comes with the name of the base
                self.tokenizer.save_pretrained(str(folder))
            (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card; the run folder has a filled one
        self.accelerator.wait_for_everyone()

    # Names of what trains and of what has state
    @property
    def terms(self) -> list[LossTerm]:
        """The loss terms of the session's phases, each once."""
        return list({id(term): term for phase in self._phases for term in phase.losses}.values())

    @property
    def named_parameters(self) -> NamedParameters:
        return named_parameters(self.model, self.tuner.prefix, self.head, self.terms)

    def named_parts(self) -> dict[str, Part]:
        """Everything with hooks, in the order in which it is called: head, losses, other parts, rule, probes."""
        parts: dict[str, Part] = {"head": self.head} if isinstance(self.head, Part) else {}
        parts |= {f"losses.{term.name}": term for term in self.terms}
        parts |= {f"parts.{i}": part for i, part in enumerate(self.method.parts)}
        parts["rule"] = self.method.rule
        return parts | {f"probes.{probe.name}": probe for probe in self.probes}

    def _parts_of(self, phase: Phase) -> list[Part]:
        """What is told of epochs and steps: everything but the losses of other phases."""
        resting = {f"losses.{term.name}" for term in self.terms if all(term is not mine for mine in phase.losses)}
        return [part for name, part in self.named_parts().items() if name not in resting]
