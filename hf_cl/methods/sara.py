"""SaRA: sparse adapters on the smallest weights (Hu et al.: ICLR 2025, arXiv 2409.06633; code: github.com/sjtuplayer/SaRA).

The paper trains diffusion models. What is done here over the sessions of a stream (one adapter trained on and on, `sessions="protect"`,
selection by density) is our own and not the authors'.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import SaraConfig, SaraModel
from hf_cl.adapters.sara import attach, sara_lr
from hf_cl.contracts import Method, NamedParameters, Part, Phase, Schedule, Session, Trainer, everything
from hf_cl.losses import MaskedCrossEntropy, NuclearNorm
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.schedules import cosine
from hf_cl.methods.with_memory import LossScope
from hf_cl.rules import Plain

logger = logging.getLogger(__name__)

Sessions = Literal["protect", "continue"]
FEW = 0.01
"""Share of active entries below which a session can hardly learn."""

CITATION = """@inproceedings{hu2025sara,
  title={{SaRA}: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation},
  author={Hu, Teng and Zhang, Jiangning and Yi, Ran and Huang, Hongrui and Wang, Yabiao and Ma, Lizhuang},
  booktitle={International Conference on Learning Representations},
  year={2025}
}"""


class ProgressiveSwitch(Part):
    """Freezes entries that have left the threshold: in the middle of a session, and with "protect" at the start of every later one.

    Args:
        switch_after: session -> optimizer steps before its switch, None for no switch.
        sessions: "protect" (what earlier sessions moved to the threshold or beyond stays exactly where it is, so that
            after a few sessions hardly an entry trains) or "continue".

    Raises ValueError for another value of `sessions`, and at the beginning of a session whose adapter is not SARA.
    """

    def __init__(self, switch_after: Callable[[Session], int | None], sessions: Sessions = "protect") -> None:
        if sessions not in ("protect", "continue"):
            raise ValueError(f"sessions must be 'protect' or 'continue', got {sessions!r}.")
        self.switch_after, self.sessions = switch_after, sessions
        self._steps = 0
        self._tuner: SaraModel | None = None

    @property
    def tuner(self) -> SaraModel:
        """The adapter of the session that has begun."""
        if self._tuner is None:
            raise RuntimeError(
                "sara: no session has begun. Its optimizer acts on the adapter that ProgressiveSwitch is given in begin_session, "
                "so the part belongs to the method's parts and begins a session before the optimizer is made."
            )
        return self._tuner

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, SaraModel):
            raise ValueError(f"ProgressiveSwitch needs a SARA adapter; this run has a {type(trainer.tuner).__name__}.")
        self._tuner, self._steps = trainer.tuner, 0
        if self.sessions == "protect" and session.id > 0:
            active = self.tuner.progressive_switch()
            total = self.tuner.active_entries()[1]
            logger.info("Session %d starts with %d of %d entries of the adapter that train.", session.id, active, total)
            if active < FEW * total:
                logger.warning(
                    "Session %d starts with %d of %d entries that still train; it can hardly learn. Select more (density), or "
                    "use sessions='continue'.",
                    *(session.id, active, total),
                )

    def after_step(self, trainer: Trainer) -> None:
        self._steps += 1
        if self._steps == self.switch_after(trainer.session):
            self.tuner.progressive_switch()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps = int(state["steps"])


def sara(
    *,
    adapter: SaraConfig | None = None,
    epochs: int = 20,
    learning_rate: float | None = None,
    head_learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    max_grad_norm: float | None = 1.0,
    sessions: Sessions = "continue",
    switch_after: Callable[[Session], int | None] | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """One SARA adapter and a head, trained with cross-entropy and the rank term in every session.

    The adapter's config says what is selected, and with `lambda_rank`, `rank_mode`, `rank_on`, `decay` and `progressive_iter` how it is
    trained. AdamW with the official betas and decay, and a cosine per epoch; the norm of the gradient is clipped over what trains.

    `optimizer` puts hooks on AdamW that act on the adapter. It knows the adapter from its `ProgressiveSwitch`, since the loop calls every
    part's `begin_session` before it asks for an optimizer; asked earlier, or for the parameters of another adapter, it raises.

    Args:
        adapter: None: 5 % of each attention and MLP matrix, the official README's rank term, no switch inside a session.
        epochs: of each session.
        learning_rate: of the adapter; None: the official rule for the threshold in force, `sara_lr`.
        head_learning_rate: of the head.
        weight_decay: of both; of the adapter's values or changes, as its `decay` says.
        max_grad_norm: None: no clipping.
        sessions: "protect" or "continue", see `ProgressiveSwitch`.
        switch_after: session -> optimizer steps before the switch; None: the adapter's `progressive_iter` in every session.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".
    """
    config = adapter or SaraConfig(density=0.05, lambda_rank=5e-4)
    config.head = dict(config.head or {"type": "linear"})
    switch = ProgressiveSwitch(switch_after or (lambda session: config.progressive_iter), sessions)
    losses = [MaskedCrossEntropy(loss_scope), *([NuclearNorm(config.lambda_rank)] if config.lambda_rank else [])]
    on_value = config.decay == "value"

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        rate = sara_lr(switch.tuner.selected_threshold()) if learning_rate is None else learning_rate
        mine = [p for name, p in named_parameters if switch.tuner.prefix in name]
        rest = [p for name, p in named_parameters if switch.tuner.prefix not in name]
        groups = [
            {"params": mine, "lr": rate, "weight_decay": 0.0 if on_value else weight_decay},
            {"params": rest, "lr": head_learning_rate, "weight_decay": weight_decay},
        ]
        adamw = torch.optim.AdamW(groups)
        attach(adamw, switch.tuner, weight_decay if on_value else 0.0)
        return adamw, cosine([rate, head_learning_rate], epochs)

    return Method(
        name="sara",
        title="SaRA",
        citation=CITATION,
        adapter=config,
        phases=lambda session: [Phase("train", epochs, losses, everything)],
        optimizer=optimizer,
        rule=Plain(),
        parts=[switch, *drift_parts(config.head)],
        max_grad_norm=max_grad_norm,
    )


@dataclass
class SaraSettings(AdapterSettings):
    """Settings of the recipe `sara`. Rank term, decay, clipping, switch and rate are the published ones; the rest is our own."""

    epochs: int = 20
    """Epochs of each session."""
    threshold: float | None = None
    """Train the entries with |w| below it, in every tensor (the paper); absent: by density."""
    density: float | None = None
    """Share of each tensor that trains, smallest first; 0.05 where threshold is absent too."""
    target_modules: list[str] | str | None = None
    """Modules to adapt, as names or a regex; absent: the Linears of attention and MLP."""
    include_bias_norm: bool = False
    """Also biases of the targeted modules, and norms if target_modules names them."""
    block_rows: int = 0
    """Rows of the weight gradient that exist at a time; 0: all."""
    learning_rate: float | None = None
    """Of the adapter; absent: the official rule 1e-3 exp(-350 threshold)."""
    head_learning_rate: float = 1e-3
    """Of the head."""
    weight_decay: float = 1e-2
    """Of the adapter's effective values, and of the head."""
    max_grad_norm: float | None = 1.0
    """The gradient is clipped to this norm; absent in YAML as null: not at all."""
    lambda_rank: float = 5e-4
    """Weight of the nuclear-norm term; 0: none."""
    rank_mode: Literal["one", "all"] = "one"
    """One random matrix per step (official code) or the sum over all (paper)."""
    rank_on: Literal["value", "delta"] = "value"
    """The norm of the trained entries' values (official) or of their change."""
    progressive_share: float | None = 0.5
    """Share of a session's steps before the switch; null: no switch."""
    progressive_sessions: Literal["all", "first"] = "all"
    """Sessions with a switch."""
    sessions: Sessions = "continue"
    """`protect`: later sessions leave alone what earlier ones moved to the threshold or beyond, until hardly an entry trains."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings."""

    def faults(self) -> list[str]:
        faults = super().faults()
        if self.threshold is not None and self.density is not None:
            faults.append("Give threshold or density, not both.")
        if self.progressive_share is not None and not 0 < self.progressive_share < 1:
            faults.append(f"progressive_share must lie between 0 and 1, or be null for no switch; got {self.progressive_share}.")
        return faults

    def method(self) -> Method:
        """The method these settings describe."""
        by_density = self.threshold is None
        adapter = SaraConfig(
            threshold=2e-3 if self.threshold is None else self.threshold,
            density=(0.05 if self.density is None else self.density) if by_density else None,
            target_modules=self.target_modules,
            include_bias_norm=self.include_bias_norm,
            block_rows=self.block_rows,
            lambda_rank=self.lambda_rank,
            rank_mode=self.rank_mode,
            rank_on=self.rank_on,
            head=self.head,
        )
        return self.completed(
            sara(
                adapter=adapter,
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                head_learning_rate=self.head_learning_rate,
                weight_decay=self.weight_decay,
                max_grad_norm=self.max_grad_norm,
                sessions=self.sessions,
                switch_after=self._switch_after,
                loss_scope=self.scope("new"),
            )
        )

    def _switch_after(self, session: Session) -> int | None:
        if self.progressive_share is None or (self.progressive_sessions == "first" and session.id > 0):
            return None
        steps = self.epochs * session.steps_per_epoch()
        return max(1, round(self.progressive_share * steps))
