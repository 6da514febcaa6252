"""A method put together from parts by their names, without a line of Python."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_cl.adapters import ADAPTERS, GIVEN, GladConfig, HeadedConfig
from hf_cl.contracts import GradientRule, LossTerm, Method, NamedParameters, Part, Phase, Schedule, Session, everything
from hf_cl.heads import check_head
from hf_cl.hints import build, faults_of, refuse
from hf_cl.losses import LOSSES
from hf_cl.methods.adapt_sessions import AdapterSettings, is_fitted
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.schedules import cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import PARTS, DriftMap
from hf_cl.rules import RULES
from hf_cl.rules.recorded import record, recorded_rule

Spec = Mapping[str, Any]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
"""Name -> optimizer of torch; made anew in every session."""
MAIN = {"type": "cross_entropy", "classes": "seen"}
"""The main loss where none is named."""
OF_EVERY_LOSS = ("first_session",)
"""What every loss has, whether or not its constructor takes it."""


def compose(
    *,
    adapter: Spec | None = None,
    head: Spec | None = None,
    main: Spec | None = None,
    losses: Mapping[str, Spec] | None = None,
    rule: Spec | None = None,
    parts: Mapping[str, Spec] | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    optimizer: Spec | None = None,
) -> Method:
    """One phase per session that trains adapter and head on the main loss and the others.

    A loss is left out before its `first_session`; one that needs "previous" begins with session 1. A loss that rests in some session and
    has a hook of sessions stands in the method's `parts` too: it hears of all of them, as one does that looks at session 0 for later.

    Args:
        adapter: `{"type": ..., options of its config}`; None: plain LoRA. Types are those of `hf_cl.adapters.ADAPTERS`.
        head: the head's spec; None: linear.
        main: the spec of the first loss; None: cross-entropy over all classes seen.
        losses: name -> spec of a further loss; the name is its type where the spec has none. `first_session` may stand in every spec.
        rule: the gradient rule's spec; None: the one that the adapter's config records, or the plain gradient.
        parts: name -> spec of a further part; the name is its type where the spec has none. Under a head that is fitted to statistics a
            `drift_map` is among them, if none is named.
        epochs: of each session.
        learning_rate: at the start of each session, falling by a cosine per epoch.
        optimizer: `{"type": "adam", arguments of torch's optimizer}`; None: Adam.

    Raises ValueError with everything that is wrong with the specs.
    """
    specs = _Specs(adapter, head, main, losses, rule, parts, optimizer, epochs)
    refuse(specs.faults())
    config = build("adapter", ADAPTERS, specs.adapter, given={"head": specs.head})
    terms = [_loss(name, spec) for name, spec in {"": specs.main, **specs.losses}.items()]
    made_rule = _rule(config, specs.rule)
    made_parts = [build("part", PARTS, spec) for spec in specs.parts.values()]
    has_drift_map = any(isinstance(part, DriftMap) for part in made_parts)

    def phases(session: Session) -> list[Phase]:
        return [Phase("train", epochs, [term for term in terms if session.id >= _first_session(term)], everything)]

    def make_optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        given = {"params": [p for _, p in named_parameters], "lr": learning_rate}
        return build("optimizer", OPTIMIZERS, specs.optimizer, given=given), cosine([learning_rate], epochs)

    return Method(
        name="compose",
        title=specs.title(),
        adapter=config,
        phases=phases,
        optimizer=make_optimizer,
        rule=made_rule,
        parts=[*filter(_looks_ahead, terms), *([] if has_drift_map else drift_parts(specs.head)), *made_parts],
    )


class _Specs:
    """The specs with what is left out filled in."""

    def __init__(
        self,
        adapter: Spec | None,
        head: Spec | None,
        main: Spec | None,
        losses: Mapping[str, Spec] | None,
        rule: Spec | None,
        parts: Mapping[str, Spec] | None,
        optimizer: Spec | None,
        epochs: int,
    ) -> None:
        self.adapter = dict(adapter or {"type": "lora"})
        if isinstance(self.adapter.get("type"), str):
            self.adapter["type"] = self.adapter["type"].lower()  # peft's spelling is upper case
        self.head = dict(head or {"type": "linear"})
        self.main = _told(epochs, main or MAIN)
        self.losses = {name: _told(epochs, {"type": name, **spec}) for name, spec in (losses or {}).items()}
        self.rule = dict(rule) if rule else None
        self.parts = {name: {"type": name, **spec} for name, spec in (parts or {}).items()}
        self.optimizer = dict(optimizer or {"type": "adam"})

    def faults(self) -> list[str]:
        faults = faults_of("adapter", ADAPTERS, self.adapter, given=GIVEN)
        try:
            if self.head.get("type") != "text":  # its settings are the adapter's to judge
                check_head(self.head)
        except ValueError as error:
            faults.append(str(error))
        for spec in (self.main, *self.losses.values()):
            faults += faults_of("loss", LOSSES, {key: value for key, value in spec.items() if key not in OF_EVERY_LOSS})
            first = spec.get("first_session", 0)
            if not isinstance(first, int) or first < 0:
                faults.append(f"first_session of loss {spec['type']!r} must be a session's number, got {first!r}.")
        if self.main.get("first_session"):
            faults.append("The main loss is there in every session; first_session is for the other losses.")
        if self.rule is not None:
            faults += faults_of("rule", RULES, self.rule)
        for spec in self.parts.values():
            faults += faults_of("part", PARTS, spec)
        return faults + faults_of("optimizer", OPTIMIZERS, self.optimizer, given=("params", "lr"))

    def title(self) -> str:
        """The parts in prose, for the card."""
        named = [f"{self.adapter['type']} with a {self.head['type']} head", self.main["type"], *self.losses]
        return ", ".join([*named, *([f"rule {self.rule['type']}"] if self.rule else []), *self.parts])


def _told(epochs: int, spec: Spec) -> dict[str, Any]:
    """A loss's spec, with the length of the session where the loss asks for it."""
    make = LOSSES.get(spec.get("type", ""))
    asks = make is not None and "epochs" in inspect.signature(make).parameters
    return {"epochs": epochs, **spec} if asks else dict(spec)


def _loss(name: str, spec: Spec) -> LossTerm:
    """`name` is what it is called in log and checkpoints, where it is not its type."""
    term = build("loss", LOSSES, {key: value for key, value in spec.items() if key not in OF_EVERY_LOSS})
    term.first_session = spec.get("first_session", term.first_session)
    if name and name != spec["type"]:
        term.name = name
    return term


def _first_session(term: LossTerm) -> int:
    return max(term.first_session, 1) if "previous" in term.needs else term.first_session


def _looks_ahead(term: LossTerm) -> bool:
    """Whether a loss rests in some session and wants to hear of it."""
    hooks = (type(term).begin_session is not Part.begin_session, type(term).end_session is not Part.end_session)
    return _first_session(term) > 0 and any(hooks)


def _rule(config: HeadedConfig, spec: Spec | None) -> GradientRule:
    """The rule; a config of GLAD gets it recorded."""
    if not isinstance(config, GladConfig):
        return build("rule", RULES, spec or {"type": "none"})
    if spec is not None:
        record(config, rule := build("rule", RULES, spec))
        return rule
    return recorded_rule(config)


@dataclass
class ComposeSettings(AdapterSettings):
    """Settings of `compose`: parts by their names, which `hf-cl list` shows."""

    adapter: dict[str, Any] = field(default_factory=lambda: {"type": "lora"})
    """The adapter and options of its config, such as '{type: one_prompt}'."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings."""
    main: dict[str, Any] = field(default_factory=lambda: dict(MAIN))
    """The main loss and its settings."""
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further losses by name, each with its settings, such as '{zero_shot_kl: {weight: 0.1}}'; first_session leaves one out before."""
    rule: dict[str, Any] | None = None
    """The gradient rule and its settings; absent: the adapter's own, or the plain gradient."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Further parts by name, each with its settings, such as '{prototypes: {}}'."""
    epochs: int = 20
    """Epochs of each session."""
    learning_rate: float = 1e-3
    """At the start of each session, falling by a cosine per epoch."""
    optimizer: dict[str, Any] = field(default_factory=lambda: {"type": "adam"})
    """adam, adamw or sgd with its arguments, such as '{type: sgd, momentum: 0.9}'; a new one in every session."""

    def method(self) -> Method:
        """The composition. Raises ValueError with all that is wrong with the parts, and for a loss that no session would train on."""
        method = self.completed(
            compose(
                adapter=self.adapter,
                head=self.head,
                main=_with_scope(self.main, self.loss_scope),
                losses=self.losses,
                rule=self.rule,
                parts=self.parts,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                optimizer=self.optimizer,
            )
        )
        if self.adapt_sessions != "all" and is_fitted(self.head):
            terms = [_loss(name, _told(self.epochs, {"type": name, **spec})) for name, spec in self.losses.items()]
            if idle := [term.name for term in terms if _first_session(term) > 0]:
                raise ValueError(
                    f"losses: {', '.join(idle)} would begin in session 1 or later, and after session 0 nothing trains under "
                    f"adapt_sessions: {self.adapt_sessions} and a head that is fitted ({self.head['type']}). Say adapt_sessions: all."
                )
        return method


def _with_scope(main: Spec, scope: LossScope | None) -> Spec:
    """The main loss's spec, with the classes that `loss_scope` names. Raises ValueError where the two say different things."""
    make = LOSSES.get(main.get("type", ""))
    if scope is None or make is None:
        return main
    if "classes" not in inspect.signature(make).parameters:
        raise ValueError(f"loss_scope: the main loss {main['type']!r} has no choice of classes; leave loss_scope out.")
    if main != MAIN and main.get("classes", scope) != scope:
        raise ValueError(f"loss_scope {scope!r} and the main loss's classes {main['classes']!r} say two things; give one of them.")
    return {**main, "classes": scope}
