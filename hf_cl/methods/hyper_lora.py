"""LoRA from a recurrent hypernetwork, one embedding per session, after "Continual Learning with Dependency Preserving Hypernetworks"
(Chandra, Varshney, Srijith, Gupta: arXiv 2209.07712).

No code of the paper was found, and the abstract alone was read: that a recurrent network generates weights layer by layer is its idea; that
these are factors of LoRA, the regulariser (that of hypercl), the growth and every default are ours. It is no reproduction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_cl.adapters import HyperLoraConfig
from hf_cl.contracts import Method, Part, Phase, Session, everything
from hf_cl.losses import GeneratedFactors, MaskedCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings, is_fitted
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import OldRowsRest, SessionMeans
from hf_cl.rules import Plain

CITATION = """@article{chandra2022dependency,
  title={Continual Learning with Dependency Preserving Hypernetworks},
  author={Chandra, Dupati Srikar and Varshney, Sakshi and Srijith, P. K. and Gupta, Sunil},
  journal={arXiv preprint arXiv:2209.07712},
  year={2022}
}"""


def hyper_lora(
    *,
    adapter: HyperLoraConfig | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    penalty: GeneratedFactors | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """Cross-entropy among the session's own classes; from session 1 on the penalty on what is generated for earlier ones. Old rows of the
    head rest.

    Args:
        adapter: HYPER_LORA under a head that trains; None: the defaults under `session_linear`.
        epochs: of each session.
        learning_rate: of Adam, at the start of each session; a cosine over its epochs.
        penalty: None: `GeneratedFactors()`.
        loss_scope: classes that compete in cross-entropy: the session's "new" ones, or all "seen".

    Raises ValueError for a head that is fitted while sessions have factors of their own.
    """
    adapter = adapter or HyperLoraConfig(head={"type": "session_linear"})
    if adapter.grows and is_fitted(adapter.head):
        raise ValueError(
            f"hyper_lora: each session has features of its own, and a head that is fitted ({(adapter.head or {})['type']}) compares all "
            "classes in one space. Take a linear or cosine head, or adapt_sessions: first."
        )
    cross_entropy, held = MaskedCrossEntropy(loss_scope), penalty or GeneratedFactors()
    parts: list[Part] = [held] if adapter.grows else []
    if adapter.grows and adapter.session_inference == "prototype":
        parts.append(SessionMeans())
    if not is_fitted(adapter.head):
        parts.append(OldRowsRest())

    def phases(session: Session) -> list[Phase]:
        terms = [cross_entropy, held] if session.id and adapter.grows else [cross_entropy]
        return [Phase("train", epochs, terms, everything)]

    return Method(
        name="hyper_lora",
        title="LoRA from a recurrent hypernetwork",
        citation=CITATION,
        adapter=adapter,
        phases=phases,
        optimizer=falling_adam(learning_rate, epochs),
        rule=Plain(),
        parts=parts,
    )


@dataclass
class HyperLoraSettings(AdapterSettings):
    """Settings of the recipe `hyper_lora`."""

    epochs: int = 20
    """Epochs of each session."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    r: int = 4
    """Rank of the generated matrices."""
    hidden_size: int = 64
    """Units of the recurrent network in session 0."""
    embedding_dim: int = 32
    """Length of a session's embedding: all that a further session adds to the adapter, beside the means of its classes."""
    grow_hidden: int = 0
    """Units that each further session adds to the recurrent network."""
    new_embedding: Literal["last", "zero", "random"] = "last"
    """What a session's embedding begins as: that of the session before it, zero or random."""
    session_inference: Literal["prototype", "given"] = "prototype"
    """Whose factors an image gets at test: of the session with the nearest class mean, or of the one that is given."""
    beta: float = 0.01
    """Weight of the penalty on what is generated for earlier sessions."""
    regularize: Literal["factors", "product"] = "factors"
    """What the penalty holds: the factors, or their product."""
    importance: Literal["none", "fisher"] = "none"
    """Whether numbers that mattered to their session are held more."""
    regularize_sessions: int | None = None
    """How many earlier sessions are drawn for the penalty of a step; absent: all."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "session_linear"})
    """The head and its settings: session_linear (an image is classified among the classes of its session), linear, cosine (among all)."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = HyperLoraConfig(
            r=self.r,
            lora_alpha=self.r,
            hidden_size=self.hidden_size,
            embedding_dim=self.embedding_dim,
            grow_hidden=self.grow_hidden,
            new_embedding=self.new_embedding,
            session_inference=self.session_inference,
            grows=self.adapt_sessions == "all",
            head=dict(self.head),
        )
        made = hyper_lora(
            adapter=adapter,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            penalty=GeneratedFactors(self.beta, self.regularize, self.importance, self.regularize_sessions),
            loss_scope=self.scope("new"),
        )
        return self.completed(made)
