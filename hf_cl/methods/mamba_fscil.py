"""Mamba-FSCIL: a selective-scan projector on fixed targets, with a branch for new classes (Li et al., arXiv 2407.06136; code:
github.com/xiaojieli0903/Mamba-FSCIL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, Phase, Session
from hf_cl.losses import BranchSeparation, BranchSuppression, DotRegression
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import with_memory
from hf_cl.rules import Plain
from hf_cl.settings import RunSettings

CITATION = """@article{li2024mambafscil,
  title={Mamba-{FSCIL}: Dynamic Adaptation with Selective State Space Model for Few-Shot Class-Incremental Learning},
  author={Li, Xiaojie and Yang, Yibo and Wu, Jianlong and Ghanem, Bernard and Nie, Liqiang and Zhang, Min},
  journal={arXiv preprint arXiv:2407.06136},
  year={2024}
}"""
NEW = "head.projector.new."
ROOM = 100
"""Classes of the frame where no number is given."""


def mamba_fscil(
    *,
    epochs: int = 20,
    session_epochs: int = 20,
    learning_rate: float = 1e-3,
    session_learning_rate: float = 1e-3,
    weight_decay: float = 5e-4,
    weight: float = 10.0,
    feature_mixup: float = 0.5,
    suppress_base: float = 100.0,
    suppress_novel: float = 1e-5,
    separate_new: float = 1e-3,
    head: Mapping[str, Any] | None = None,
    memory: Mapping[str, Any] | None = None,
) -> Method:
    """Session 0 trains the main branch of a `SelectiveScanProjector` by dot regression. After it that branch rests, and the new one trains
    on the session's shots and the mean maps of all earlier classes, while it is kept quiet on those of session 0.

    All of it on maps of the untouched backbone, which are computed once per session. The paper trains its backbone on session 0, with SGD;
    here the backbone is a pretrained one, and the optimizer Adam.

    Args:
        epochs, session_epochs: over the maps of session 0, and of each later one.
        learning_rate, session_learning_rate: of Adam, at the start of session 0 and of later ones, falling by a cosine in each.
        weight_decay: decoupled.
        weight: of dot regression.
        feature_mixup: share of a later session's steps that average pairs of maps.
        suppress_base, suppress_novel: of `BranchSuppression`.
        separate_new: of `BranchSeparation`.
        head: settings of the head; its type is `etf` and its projector `selective_scan`.
        memory: the spec of a memory; None: nothing is kept.

    Raises ValueError for another head.
    """
    spec = {"type": "etf", "projector": "selective_scan", "num_classes_total": ROOM, **(head or {})}
    if (spec["type"], spec["projector"]) != ("etf", "selective_scan"):
        raise ValueError("mamba_fscil has its own head, of type etf with projector: selective_scan; leave type and projector out.")
    base, later = DotRegression(weight), DotRegression(weight, balanced=True, feature_mixup=feature_mixup)
    branch = [BranchSuppression(suppress_base, suppress_novel), BranchSeparation(new=separate_new)]

    def phases(session: Session) -> list[Phase]:
        if session.id == 0:
            return [Phase("main branch", epochs, [base], _is_main, inputs="features", refresh="phase")]
        return [Phase("new branch", session_epochs, [later, *branch], _is_new, inputs="features", refresh="phase")]

    made = Method(
        name="mamba_fscil",
        title="Mamba-FSCIL",
        citation=CITATION,
        adapter=OnePromptConfig(layer_tokens={}, head=spec),
        phases=phases,
        optimizer=falling_adam(
            learning_rate, epochs, weight_decay, session_learning_rate=session_learning_rate, session_epochs=session_epochs
        ),
        rule=Plain(),
        parts=branch,
    )
    return made if memory is None else with_memory(made, memory)


def _is_new(name: str) -> bool:
    return name.startswith(NEW)


def _is_main(name: str) -> bool:
    return name.startswith("head.") and not _is_new(name)


@dataclass
class MambaFscilSettings(RunSettings):
    """Settings of `mamba_fscil`."""

    epochs: int = 20
    """Epochs over the maps of session 0."""
    session_epochs: int = 20
    """Epochs over the maps of each later session, and the mean maps of earlier classes."""
    learning_rate: float = 1e-3
    """Of Adam in session 0, falling by a cosine."""
    session_learning_rate: float = 1e-3
    """Of Adam in later sessions, falling by a cosine in each."""
    weight_decay: float = 5e-4
    """Decoupled, not on norms and biases."""
    weight: float = 10.0
    """Of dot regression."""
    feature_mixup: float = 0.5
    """Share of a later session's steps in which pairs of maps are averaged and pulled onto both targets."""
    suppress_base: float = 100.0
    """How strongly the new branch is kept quiet on classes of session 0."""
    suppress_novel: float = 1e-5
    """How strongly it is called for on others."""
    separate_new: float = 1e-3
    """How strongly its steering differs between the two."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "etf", "num_classes_total": 100})
    """Settings of the head, such as '{type: etf, num_classes_total: 100, grid: 7, scan: {d_state: 16}}'."""
    memory: dict[str, Any] | None = field(default_factory=lambda: {"type": "class_means", "copies": 10, "base_copies": 1})
    """What is trained on again: mean maps of earlier classes; null: nothing is kept."""

    def method(self) -> Method:
        return mamba_fscil(
            epochs=self.epochs,
            session_epochs=self.session_epochs,
            learning_rate=self.learning_rate,
            session_learning_rate=self.session_learning_rate,
            weight_decay=self.weight_decay,
            weight=self.weight,
            feature_mixup=self.feature_mixup,
            suppress_base=self.suppress_base,
            suppress_novel=self.suppress_novel,
            separate_new=self.separate_new,
            head=self.head,
            memory=self.memory,
        )
