"""Dynamic sparse training over sessions (Yildirim et al.: CPAL 2024, arXiv 2308.14831; code: github.com/muratonuryildirim/CL-with-DST).

The paper trains convolutional networks from scratch, task by task. Sparse differences on a frozen base, growth by gradients as the default
and one model for all sessions are our own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from hf_cl.adapters import DstConfig, DstModel
from hf_cl.adapters.dst.rewiring import death_rate
from hf_cl.contracts import Method, NamedParameters, Part, Phase, Schedule, Session, Trainer, everything, is_head
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings, is_fitted
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.schedules import cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import OldRowsRest
from hf_cl.rules import Plain

logger = logging.getLogger(__name__)

CITATION = """@inproceedings{yildirim2024continual,
  title={Continual Learning with Dynamic Sparse Training: Exploring Algorithms for Effective Model Updates},
  author={Yildirim, Murat Onur and Gok Yildirim, Elif Ceren and Sokar, Ghada and Mocanu, Decebal Constantin and Vanschoren, Joaquin},
  booktitle={Conference on Parsimony and Learning},
  year={2024}
}"""


class Rewire(Part):
    """Rewires the adapter every so many optimizer steps of a session.

    Args:
        epochs: of a session, for its length in steps.
        every: optimizer steps between two rewirings.
        start, end: share of the entries that one drops, falling by half a cosine over the session's steps.
        stop: share of the session's steps after which it rests.

    Raises ValueError for numbers out of range, and at the beginning of a session whose adapter is not DST.
    """

    def __init__(self, epochs: int, every: int = 100, start: float = 0.5, end: float = 0.005, stop: float = 0.75) -> None:
        if every < 1 or not 0 <= end <= start < 1 or not 0 < stop <= 1:
            raise ValueError(
                f"Rewire: every ({every}) must be at least 1, 0 <= death_rate_min ({end}) <= death_rate ({start}) < 1, and stop_fraction "
                f"({stop}) above 0 and at most 1."
            )
        self.epochs, self.every, self.start, self.end, self.stop = epochs, every, start, end, stop
        self.optimizer: Optimizer | None = None
        self._steps = self._length = 0
        self._tuner: DstModel | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, DstModel):
            raise ValueError(f"Rewire needs a DST adapter; this run has a {type(trainer.tuner).__name__}.")
        self._tuner, self._steps, self._length = trainer.tuner, 0, self.epochs * session.steps_per_epoch()
        if self.every > self.stop * self._length:
            logger.warning(
                "Session %d is never rewired: it has %d steps and update_every is %d. Its entries stay where they were drawn; give a "
                "smaller update_every.",
                *(session.id, self._length, self.every),
            )
        self._arm()

    def due(self, step: int) -> bool:
        """Whether the adapter is rewired after that many steps of the session."""
        return step % self.every == 0 and step <= self.stop * self._length

    def after_step(self, trainer: Trainer) -> None:
        assert self._tuner is not None
        if self.optimizer is None:
            raise RuntimeError("dst: Rewire knows no optimizer; the method's own sets it.")
        self._steps += 1
        if self.due(self._steps):
            rate = death_rate(self._steps, self._length, self.start, self.end)
            generator = trainer.generator_for("rewire", trainer.session.id, self._steps)
            self._tuner.rewire(
                rate,
                lambda n: torch.randperm(n, generator=generator),
                self.optimizer,
                lambda dense: trainer.accelerator.reduce(dense, "mean"),
            )
        self._arm()

    def _arm(self) -> None:
        """The step before a rewiring keeps its dense gradients."""
        if self._tuner is not None:
            wants = self._tuner.peft_config[self._tuner.active_adapters[0]].wants_dense_gradient  # pyright: ignore
            self._tuner.keep_dense(wants and self.due(self._steps + 1))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])
        self._arm()


def dst(
    *,
    adapter: DstConfig | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    head_learning_rate: float = 1e-3,
    update_every: int = 100,
    death_rate: float = 0.5,
    death_rate_min: float = 0.005,
    stop_fraction: float = 0.75,
    loss_scope: LossScope = "new",
) -> Method:
    """Sparse differences and a head, trained with cross-entropy by Adam and rewired on the way; rows of earlier classes rest.

    Args:
        adapter: None: 5 % of the attention and MLP matrices, growth by gradients.
        epochs: of each session.
        learning_rate, head_learning_rate: of the entries and of the head, falling by a cosine per epoch.
        update_every, death_rate, death_rate_min, stop_fraction: see `Rewire`.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".
    """
    config = adapter or DstConfig()
    config.head = dict(config.head or {"type": "linear"})
    rewire = Rewire(epochs, update_every, death_rate, death_rate_min, stop_fraction)

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        groups = [
            {"params": [p for name, p in named_parameters if not is_head(name)], "lr": learning_rate},
            {"params": [p for name, p in named_parameters if is_head(name)], "lr": head_learning_rate},
        ]
        rewire.optimizer = torch.optim.Adam(groups)
        return rewire.optimizer, cosine([learning_rate, head_learning_rate], epochs)

    rows = [] if is_fitted(config.head) or config.head["type"] not in ("linear", "cosine") else [OldRowsRest()]
    return Method(
        name="dst",
        title="Dynamic sparse training",
        citation=CITATION,
        adapter=config,
        phases=lambda session: [Phase("train", epochs, [MaskedCrossEntropy(loss_scope)], everything)],
        optimizer=optimizer,
        rule=Plain(),
        parts=[rewire, *rows, *drift_parts(config.head)],
    )


@dataclass
class DstSettings(AdapterSettings):
    """Settings of the recipe `dst`. Death rate and its cosine are the published ones; the rest is our own."""

    epochs: int = 20
    """Epochs of each session."""
    density: float = 0.05
    """Share of the entries of all targets together that a session trains."""
    init: Literal["uniform", "erk"] = "uniform"
    """How they are spread over the layers: evenly, or `erk`: small layers denser."""
    death: Literal["magnitude", "taylor", "set"] = "magnitude"
    """Which entries go: the smallest (published), of the smallest (value * gradient)^2, or the smallest of each sign."""
    growth: Literal["gradient", "random", "random_unfired"] = "gradient"
    """Which come: of the largest gradient, any (published default), or first those that the session has not had."""
    death_rate: float = 0.5
    """Share of the entries that a rewiring drops, at the start of a session."""
    death_rate_min: float = 0.005
    """At its end; in between half a cosine."""
    update_every: int = 100
    """Optimizer steps between two rewirings."""
    stop_fraction: float = 0.75
    """Share of a session's steps after which nothing is rewired."""
    target_modules: list[str] | str | None = None
    """Modules to adapt, as names or a regex; absent: the Linears of attention and MLP."""
    learning_rate: float = 1e-3
    """Of the entries."""
    head_learning_rate: float = 1e-3
    """Of the head."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = DstConfig(
            density=self.density,
            init=self.init,
            death=self.death,
            growth=self.growth,
            grows=self.adapt_sessions == "all",
            seed=self.seed,
            target_modules=self.target_modules,
            head=dict(self.head),
        )
        return self.completed(
            dst(
                adapter=adapter,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                head_learning_rate=self.head_learning_rate,
                update_every=self.update_every,
                death_rate=self.death_rate,
                death_rate_min=self.death_rate_min,
                stop_fraction=self.stop_fraction,
                loss_scope=self.scope("new"),
            )
        )
