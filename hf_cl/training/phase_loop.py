"""One phase of a session: its epochs and steps, from wherever the position stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from hf_cl.backbones import ClipClassifier, FeatureClassifier
from hf_cl.contracts import Phase, Schedule
from hf_cl.training.epoch_order import Replay
from hf_cl.training.needs import num_views
from hf_cl.training.prepare import prepare_phase, release_phase
from hf_cl.training.services import Services
from hf_cl.training.step import Stepper, TrainingDivergedError

SHOWN = 8
"""Samples that a message names."""


class PhaseLoop:
    """Sets what trains, prepares the model for it, and runs the epochs that are left.

    Args:
        trainer: its position, parts, images and records are used and moved on; hooks are given it.
        phase: what runs.
        schedule: (epoch of the session, step of the epoch) -> one rate per parameter group.
        checkpoint: writes one.
    """

    def __init__(self, trainer: Services, phase: Phase, schedule: Schedule, checkpoint: Callable[[], None]) -> None:
        self.trainer, self.phase, self.schedule, self.checkpoint = trainer, phase, schedule, checkpoint
        trainer.phase = phase
        self.parts = trainer.parts_of(phase)

    def run(self) -> None:
        """All epochs that are left, between preparing and releasing the model."""
        trainer, phase, at = self.trainer, self.phase, self.trainer.position
        model = self._prepare()
        trainer.features.epoch = at.session_epoch - at.epoch
        for epoch in range(at.epoch, phase.epochs):
            if phase.refresh == "epoch":
                trainer.features.doubt()
                trainer.features.epoch = at.session_epoch
            if at.batch == 0:
                for part in self.parts:
                    part.begin_epoch(trainer, epoch)
            model.train()
            queries = trainer.tuner.query_pass()
            with nullcontext() if queries is None else queries.keeping():  # one pass for all updates on a batch
                self._run_epoch()
            at.next_epoch()
        release_phase(trainer.accelerator, model)
        self._weights_moved()

    def _prepare(self) -> Any:
        trainer, phase, named = self.trainer, self.phase, self.trainer.named_parameters
        for name, parameter in named:
            parameter.requires_grad_(phase.trainable(name))
        self.before_head = any(p.requires_grad for name, p in named if not name.startswith(("head.", "losses.")))
        classifier, session, method = trainer.classifier, trainer.session, trainer.method
        if isinstance(classifier, ClipClassifier):  # the texts of earlier classes are encoded only where a loss reads their columns
            everything = any("all_classes" in term.needs for term in phase.losses)
            classifier.head.training_classes = None if everything else session.own
        bare = classifier if phase.inputs == "images" else FeatureClassifier(trainer.head)
        model, optimizer = prepare_phase(trainer.accelerator, bare, trainer.optimizer)
        self.stepper = Stepper(
            phase,
            session,
            method.rule,
            model,
            optimizer,
            named,
            trainer.accelerator,
            method.max_grad_norm,
            frozen=trainer.frozen.run,
            given=trainer.tuner.given,
        )
        return model

    def _run_epoch(self) -> None:
        trainer, phase, at, settings = self.trainer, self.phase, self.trainer.position, self.trainer.settings
        train, size = trainer.session.training_images, phase.batch_size or settings.batch_size
        replay = self._replay()
        count = len(train) if replay is None or replay.draw is None else replay.own
        steps = trainer.images.steps(
            train,
            key=(settings.seed, trainer.session.id, at.phase, at.epoch),
            size=size,
            epoch=at.session_epoch,
            start=at.batch,
            views=num_views(phase),
            features=trainer.features.of(train, augment=True) if phase.inputs == "features" else None,
            replay=replay,
            exposed=trainer.session.exposed,
            updates=phase.updates_per_batch,
        )
        rates: Sequence[float] = ()
        for micro_batches in steps:
            rates = self.schedule(at.session_epoch, at.batch)
            taken = self.stepper.step(micro_batches, at.epoch, at.step, rates)
            batch, update = divmod(at.batch, phase.updates_per_batch)
            at.next_batch(0 if update else min(size, count - batch * size))  # each image counts once
            if phase.inputs == "images":
                self._weights_moved()
            if taken:
                self._after_step(rates)
            trainer.records.advance(size)
            reading = at.step % settings.logging_steps == 0
            due = trainer.times.due(at.step, reading)
            if due or reading:
                self._read(rates)  # before a checkpoint: none is written of a run that has diverged
            if due:
                self.checkpoint()
        self._read(rates)

    def _weights_moved(self) -> None:
        """Features are computed again where the phase trains what lies before the head; else only if that was moved otherwise."""
        features = self.trainer.features
        features.clear() if self.before_head else features.doubt()

    def _replay(self) -> Replay | None:
        """How the memory's images come into the steps of this epoch."""
        trainer, memory, at = self.trainer, self.trainer.memory, self.trainer.position
        own, kept = len(trainer.session.train), len(trainer.session.training_images) - len(trainer.session.train)
        if memory is None or not kept:
            return None
        key = (trainer.settings.seed, trainer.session.id, at.phase, at.epoch)
        return Replay(own, (lambda step: memory.draw(kept, (*key, step))) if memory.replay else None)

    def _after_step(self, rates: Sequence[float]) -> None:
        """Tell the parts of a step that was taken, with what its losses saw."""
        trainer = self.trainer
        trainer.contexts, trainer.rates = self.stepper.contexts, rates
        for part in self.parts:
            part.after_step(trainer)
        trainer.contexts = self.stepper.contexts = ()  # no logits of this step lie beside those of the next

    def _read(self, rates: Sequence[float]) -> None:
        """Read the losses, write them down, and stop the run where one was not finite."""
        trainer, at = self.trainer, self.trainer.position
        losses, first_bad = self.stepper.read()
        if first_bad is not None:
            raise TrainingDivergedError(self._diverged(losses, first_bad))
        if losses:
            values: dict[str, Any] = {f"loss_{name}": value for name, value in losses.items()}
            values |= {f"learning_rate_{i}": rate for i, rate in enumerate(rates)}
            trainer.records.write("train", at.step, session=trainer.session.id, phase=self.phase.name, epoch=at.epoch, **values)
            trainer.records.note("  ".join(f"{name} {value:.3f}" for name, value in losses.items()))

    def _diverged(self, losses: Mapping[str, float], step: int) -> str:
        trainer = self.trainer
        bad = [name for name, value in losses.items() if not math.isfinite(value)]  # a gradient alone is put to zero, and spoils no loss
        what = f"The loss {' + '.join(map(repr, bad))} was" if bad else "The losses were finite, a gradient was"
        batch = (trainer.position.batch - (trainer.position.step - step)) // self.phase.updates_per_batch
        samples = trainer.images.samples_of(trainer.session.training_images, batch)
        more = f" and {len(samples) - SHOWN} more" if len(samples) > SHOWN else ""
        return (
            f"{what} not finite at step {step} (session {trainer.session.id}, phase {self.phase.name}), on the samples with index "
            f"{', '.join(map(str, samples[:SHOWN]))}{more}. Nothing was saved since; last good checkpoint: {trainer.last_checkpoint}."
        )
