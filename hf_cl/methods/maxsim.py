"""Class vectors that look for their best places among patch tokens: ColBERT's score, with the projections of arXiv 2510.12327."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, Phase, Session, is_head
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import LossScope, TrainedSettings
from hf_cl.parts import OldRowsRest
from hf_cl.rules import Plain

CITATION = """@article{clavie2025projection,
  title={Simple Projection Variants Improve {ColBERT} Performance},
  author={Clavi{\\'e}, Benjamin and Lee, Sean and Takehi, Rikiya and Shakir, Aamir and Kato, Makoto P.},
  journal={arXiv preprint arXiv:2510.12327},
  year={2025}
}"""


def maxsim(
    *,
    epochs: int = 10,
    session_epochs: int = 10,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    head: Mapping[str, Any] | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """A `MaxSimHead` on patch tokens of the untouched backbone, which are computed once per session. The projection trains in session 0
    alone, since it moves every score; after that a session trains the vectors of its own classes, and those of others rest. Where vectors
    are texts (`source: text`) nothing trains after session 0.

    Args:
        epochs, session_epochs: over the maps of session 0, and of each later one.
        learning_rate: of Adam, at the start of each session, falling by a cosine.
        weight_decay: decoupled, where it is not 0.
        head: settings of the head; its type is `maxsim`.
        loss_scope: classes that compete: the session's "new" ones, or all "seen".

    Raises ValueError for a head of another type.
    """
    spec = {"type": "maxsim", **(head or {})}
    if spec["type"] != "maxsim":
        raise ValueError(f"maxsim has its own head, which a head of type {spec['type']} does not replace; leave `type` out.")
    loss, texts = MaskedCrossEntropy(loss_scope), spec.get("source") == "text"

    def phases(session: Session) -> list[Phase]:
        if session.id == 0:
            return [Phase("train", epochs, [loss], is_head, inputs="features", refresh="phase")]
        if texts:
            return []
        return [Phase("vectors", session_epochs, [loss], _is_vectors, inputs="features", refresh="phase")]

    return Method(
        name="maxsim",
        title="late interaction of class vectors and patches",
        citation=CITATION,
        adapter=OnePromptConfig(layer_tokens={}, head=spec),
        phases=phases,
        optimizer=falling_adam(learning_rate, epochs, weight_decay, session_epochs=session_epochs),
        rule=Plain(),
        parts=[] if texts else [OldRowsRest()],
    )


def _is_vectors(name: str) -> bool:
    return name == "head.weight"


@dataclass
class MaxsimSettings(TrainedSettings):
    """Settings of `maxsim`."""

    epochs: int = 10
    """Epochs over the maps of session 0."""
    session_epochs: int = 10
    """Epochs over the maps of each later session; 0 leaves new classes where they begin."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    weight_decay: float = 0.0
    """Above 0: AdamW, decoupled."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "maxsim"})
    """Settings of the head, such as '{type: maxsim, grid: 7, projection: glu}'."""

    def method(self) -> Method:
        made = maxsim(
            epochs=self.epochs,
            session_epochs=self.session_epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            head=self.head,
            loss_scope=self.scope("new"),
        )
        return self.remembering(made)
