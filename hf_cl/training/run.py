"""One run and what it holds: handed down to what prepares, trains, measures and saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from hf_cl.backbones import AnyClassifier, EncodedNames
from hf_cl.checkpoints.position import Position
from hf_cl.checkpoints.tensors import named_parameters
from hf_cl.checkpoints.times import CheckpointTimes
from hf_cl.contracts import Context, Head, LossTerm, Memory, Method, NamedParameters, Part, Phase, Probe, Scenario, Session
from hf_cl.memory.class_statistics import ClassStatistics
from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.calibration import Calibration
from hf_cl.training.feature_cache import FeatureCache
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.kept_queries import KeptQueries
from hf_cl.training.loading_check import BareBase
from hf_cl.training.records import Records
from hf_cl.training.session_plan import SessionPlan
from hf_cl.training.start import Start

ADAPTER = "default"
"""The one adapter of a run."""


@dataclass(kw_only=True, eq=False)
class Run:
    """What a run is made of, and where it stands. Fields without a value here are set when the run starts, or its first session begins."""

    backbone: nn.Module
    processor: Any
    tokenizer: Any
    method: Method
    scenario: Scenario
    settings: TrainingSettings
    probes: list[Probe]
    quiet: bool
    plan: SessionPlan
    accelerator: RunAccelerator
    generator: torch.Generator
    """On the CPU; the same draws on every process; checkpointed, so what it gives depends on what was drawn before."""
    texts: EncodedNames | None = None
    """What the class names say, for heads that judge by pictures and names."""
    position: Position = field(default_factory=Position)
    start: Start | None = None
    """The adapter that the run started from: what it knew is session 0."""
    last_checkpoint: str = "none"
    """In words, for error messages."""

    # Made when the run starts
    times: CheckpointTimes = field(init=False)
    records: Records = field(init=False)
    images: ImageStream = field(init=False)

    # Made when the adapter is injected
    bare: BareBase | None = field(default=None, init=False)
    """The base as it was, until session 0's adapter has been loaded into it once."""
    _model: PeftModel | None = field(default=None, init=False)
    classifier: AnyClassifier = field(init=False)
    frozen: FrozenStates = field(init=False)
    features: FeatureCache = field(init=False)
    queries: KeptQueries | None = field(default=None, init=False)
    """None where the adapter asks the untouched tower nothing."""
    statistics: ClassStatistics = field(init=False)
    calibration: Calibration = field(init=False)

    # Of the session, the phase and the step
    _session: Session | None = field(default=None, init=False)
    phases: Sequence[Phase] = field(default=(), init=False)
    """Of the session."""
    phase: Phase = field(init=False)
    """The one that runs; from `begin_epoch` on."""
    optimizer: Any = field(default=None, init=False)
    carried: dict[str, dict[str, Any]] = field(default_factory=dict, init=False)
    """Between sessions, of an optimizer that lasts: what it knows of each parameter, by name."""
    contexts: Sequence[Context] = field(default=(), init=False)
    """In `after_step`: what the losses saw in this step, one context per micro-batch of this process, of the rule's first pass, without
    gradient. Empty elsewhere: nothing outlives a step."""
    rates: Sequence[float] = field(default=(), init=False)
    """Learning rates of the last step, one per parameter group."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.settings.output_dir)

    @property
    def model(self) -> PeftModel:
        if self._model is None:
            raise RuntimeError("The adapter is injected when the first session begins; call fit() first.")
        return self._model

    @property
    def session(self) -> Session:
        if self._session is None:
            raise RuntimeError("No session has begun; call fit() first.")
        return self._session

    @property
    def tuner(self) -> Any:
        """The adapter's: a `HeadedTuner`."""
        return self.model.base_model

    @property
    def head(self) -> Head:
        return self.classifier.head

    @property
    def config(self) -> Any:
        """The adapter's, as it has grown: a copy of the method's."""
        return self.model.peft_config[ADAPTER]

    @property
    def memory(self) -> Memory | None:
        """What of earlier sessions is trained on again; None for a run that keeps nothing."""
        return self.method.memory

    @property
    def terms(self) -> list[LossTerm]:
        """The loss terms of the session's phases, each once."""
        return list({id(term): term for phase in self.phases for term in phase.losses}.values())

    @property
    def named_parameters(self) -> NamedParameters:
        """Those of head, adapter and losses, as `Method.optimizer` gets them."""
        return named_parameters(self.model, self.tuner.prefix, self.head, self.terms)

    def named_parts(self) -> dict[str, Part]:
        """Everything with hooks, each once, in the order in which it is called: head, memory, losses, other parts, rule, probes."""
        parts: dict[str, Part] = {"head": self.head} if isinstance(self.head, Part) else {}
        parts |= {} if self.memory is None else {"memory": self.memory}
        parts |= {f"losses.{term.name}": term for term in self.terms}
        parts |= {f"parts.{i}": part for i, part in enumerate(self.method.parts) if all(part is not term for term in self.terms)}
        parts["rule"] = self.method.rule
        return parts | {f"probes.{probe.name}": probe for probe in self.probes}

    def parts_of(self, phase: Phase) -> list[Part]:
        """What is told of epochs and steps: everything but the losses of other phases that are no parts of the method."""
        told = [*phase.losses, *self.method.parts]
        resting = {f"losses.{term.name}" for term in self.terms if all(term is not part for part in told)}
        return [part for name, part in self.named_parts().items() if name not in resting]
