"""One adapter distilled from several runs: inference costs what a single run does."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from hf_cl.adapters.tuner import check_fit
from hf_cl.backbones.loading import shared_name
from hf_cl.contracts import LossTerm, Method, Phase, Session
from hf_cl.hints import refuse
from hf_cl.hub.classifier import Opener
from hf_cl.hub.ensemble import log_probabilities
from hf_cl.hub.fetch import ADAPTER_WEIGHTS
from hf_cl.losses import (
    BalancedSoftmax,
    BinaryCrossEntropy,
    EarlyLearning,
    EnsembleDistillation,
    MaskedCrossEntropy,
    SelfDistillation,
    SymmetricCrossEntropy,
    Teacher,
)
from hf_cl.methods import METHODS
from hf_cl.methods.adapt_sessions import is_fitted
from hf_cl.results.members import adapter_of
from hf_cl.results.results import Results
from hf_cl.results.saved_run import Run
from hf_cl.run.ensemble import Members, check_data
from hf_cl.run.first_checks import check_settings
from hf_cl.run.look_at_pictures import picture_check
from hf_cl.run.open import open_base, open_scenario
from hf_cl.run.parse import parse_flags, settings_of
from hf_cl.run.trainer import ContinualTrainer
from hf_cl.run.unlabelled import beside, without_known
from hf_cl.scenarios import SessionStream
from hf_cl.scenarios.unlabelled import read_unlabelled
from hf_cl.settings import RunSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.pixel_store import open_store

METHOD = "distill"
LABEL_LOSSES = (MaskedCrossEntropy, BalancedSoftmax, BinaryCrossEntropy, SymmetricCrossEntropy, EarlyLearning, SelfDistillation)
"""Losses on labels, in whose place the distillation comes."""
OF_THE_STREAM = (
    *("backbone", "backbone_revision", "normalize", "dataset", "image_column", "label_column", "test_split", "protocol"),
    *("protocol_options", "num_base_classes", "classes_per_session", "class_order", "class_order_seed", "shots", "index_list"),
    *("targets", "start_from", "skip_bad_images", "exclude", "test_on", "max_sessions", "tuned_on", "output_dir", "resume"),
)
"""Settings that a student has from its teachers, or from the command itself."""


@dataclass(frozen=True)
class Distillation:
    """How the student learns.

    Raises ValueError for numbers out of range, and for hard labels with images that have none.
    """

    temperature: float = 2.0
    hard_labels: float = 0.0
    """Weight of the cross-entropy over all classes beside the distillation."""
    images: str | None = None
    """Unlabelled images, which every session trains on too: a folder, a table, a Hub id, as `dataset` of a run; labels are not read."""
    student: Sequence[str] = ()
    """`KEY=VALUE`: settings of the first run's method that the student has otherwise."""

    def __post_init__(self) -> None:
        faults = [] if self.temperature > 0 else [f"temperature must be positive, got {self.temperature}."]
        faults += [] if self.hard_labels >= 0 else [f"hard_labels is a weight and must not be negative, got {self.hard_labels}."]
        if self.hard_labels > 0 and self.images is not None:
            faults.append("hard_labels reads labels, and the images of --images have none; leave one of them out.")
        refuse(faults)


def distill(members: Members, how: Distillation, *, quiet: bool = False) -> Results:
    """Train the first run's method on what all of the runs say, session by session, into an ordinary run folder: adapters, report, card.

    The method's losses on labels give their place to `EnsembleDistillation`; its other losses stay. The teachers of session t are the
    runs' adapters of session t, on the student's own backbone.

    Raises what training raises, and ValueError for a method that cannot be distilled into.
    """
    settings = student_settings(members, how.student)
    check_settings(settings)
    method = settings.method()
    check_student(method, how)
    backbone, processor, tokenizer = open_base(settings, method)
    check_fit(method.adapter, backbone)
    accelerator = RunAccelerator(settings)
    opener = Opener(accelerator.device, shared=True)
    opener.lend(backbone, shared_name(settings.backbone), settings.backbone_revision, method.adapter.has_text_head)
    store = open_store(processor, settings, accelerator)
    scenario: Any = open_scenario(settings, store, quiet=quiet)
    check_data(scenario, members.runs[0])
    check_phases(method, scenario, how)
    scenario, added = _with_images(scenario, settings, how, store)
    loss = EnsembleDistillation([_teacher(run, opener) for run in members.runs], how.temperature)
    title = f"{method.title or method.name}, distilled from {len(members.runs)} runs{added}"
    made = {"accelerator": accelerator, "store": store, "tokenizer": tokenizer, "quiet": quiet}
    trainer = ContinualTrainer(backbone, processor, distilled(method, loss, how.hard_labels, title), scenario, settings, **made)
    trainer.fit()
    return trainer.finish(members.finals)


def distilled(method: Method, loss: EnsembleDistillation, hard_labels: float = 0.0, title: str = "") -> Method:
    """The method with the distillation in the place of its losses on labels."""
    mains: list[LossTerm] = [loss, *([MaskedCrossEntropy("seen", weight=hard_labels)] if hard_labels else [])]

    def phases(session: Session) -> list[Phase]:
        return [replace(phase, losses=[*mains, *_others(phase)]) for phase in method.phases(session)]

    return replace(method, name=METHOD, title=title or method.title, phases=phases)


def _others(phase: Phase) -> list[LossTerm]:
    return [term for term in phase.losses if not isinstance(term, LABEL_LOSSES)]


def student_settings(members: Members, changed: Sequence[str]) -> RunSettings:
    """The first run's settings, into the ensemble's output folder, with what the student has otherwise.

    Raises ValueError with all that is wrong: a run that no command has started, `changed` that is no KEY=VALUE, settings that a student
    cannot have of its own.
    """
    first = members.runs[0]
    name = first.results.method.name if first.results.method else None
    if name not in METHODS:
        raise ValueError(f"{first.folder} was trained by {name!r}, which is no method of hf-cl train; put a run of one first.")
    flags = parse_flags([word for pair in changed for word in _flag(pair)])
    refuse([f"--student {key}: a student has it from its teachers." for key in flags if key in OF_THE_STREAM])
    known = {field.name for field in fields(METHODS[name])}
    values = {key: value for key, value in first.settings.items() if key in known}
    ours = members.settings
    values |= {"output_dir": ours.output_dir, "resume": ours.resume, "cpu": ours.cpu, "push_to_hub": None, "report_to": [], "marks": []}
    where = dict.fromkeys(values, f"config.yaml of {first.folder}") | {key: f"--student {key}" for key in flags}
    return settings_of(METHODS[name], values | flags, where)


def _flag(pair: str) -> tuple[str, str]:
    key, equals, value = pair.partition("=")
    if not (key and equals and value):
        raise ValueError(f"--student takes KEY=VALUE, got {pair!r}.")
    return f"--{key}", value


def check_student(method: Method, how: Distillation) -> None:
    """Raise ValueError for a method that would not learn from its teachers, before any image is opened."""
    head = method.adapter.head or {}
    if is_fitted(head):
        raise ValueError(
            f"The head {head['type']!r} fits itself to features at the end of a session, so it would not learn what the teachers say. "
            "Say --student head=linear."
        )
    if how.images is not None and method.memory is not None:
        raise ValueError("The method keeps exemplars (memory); --images goes with methods that keep none. Say --student memory=null.")


def check_phases(method: Method, scenario: SessionStream, how: Distillation) -> None:
    """Raise ValueError where a phase has no loss whose place the distillation could take, or, with unlabelled images, another one too."""
    trained = [phase for session in scenario for phase in method.phases(replace(session, batch_size=1)) if phase.epochs]
    if not trained:
        raise ValueError(
            f"Nothing is trained by {method.title or method.name}, so nothing can be distilled into it; put another run first."
        )
    for phase in trained:
        if not any(isinstance(term, LABEL_LOSSES) for term in phase.losses):
            said = ", ".join(term.name for term in phase.losses)
            raise ValueError(f"Phase {phase.name!r} has no loss on labels whose place the distillation could take; it has {said}.")
        if how.images is not None and (others := _others(phase)):
            said = ", ".join(term.name for term in others)
            raise ValueError(f"Phase {phase.name!r} has further losses ({said}), which may read labels that --images does not have.")


def _with_images(scenario: SessionStream, settings: RunSettings, how: Distillation, store: Any) -> tuple[SessionStream, str]:
    """The stream with the unlabelled images, and what the title says of them."""
    if how.images is None:
        return scenario, ""
    found = read_unlabelled(how.images, settings.image_column, picture_check(settings.check_images, store))
    images = without_known(found, scenario)
    return beside(scenario, images), f" and {len(images)} unlabelled images"


def _teacher(run: Run, opener: Opener) -> Teacher:
    digest = hashlib.sha256()
    for session in run.results.sessions:
        digest.update((adapter_of(run.folder, session.id) / ADAPTER_WEIGHTS).read_bytes())

    def open_after(session: int) -> Any:
        classifier = opener.open(adapter_of(run.folder, session))
        return lambda pixels: log_probabilities(classifier, pixels)

    return Teacher(digest.hexdigest()[:16], open_after)
