"""What a method has to beat: a head on the untouched backbone, class means, and LoRA without any protection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hf_cl.adapters import AsyncLoraConfig, OnePromptConfig
from hf_cl.adapters.glad import plain_lora
from hf_cl.contracts import Method, Phase, Session, everything, is_head
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.frozen import frozen
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import LossScope, TrainedSettings
from hf_cl.parts import Unfreeze
from hf_cl.parts.drift_map import Kind
from hf_cl.rules import Plain
from hf_cl.settings import RunSettings

COPIES = ".async_lora_copy."
"""In the name of a weight of the base that trains as a copy."""


def linear_probe(
    *,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    head: Mapping[str, Any] | None = None,
    loss_scope: LossScope = "new",
) -> Method:
    """The head alone, trained on features of the untouched backbone, which are computed once per session."""

    def phases(session: Session) -> list[Phase]:
        return [Phase("probe", epochs, [MaskedCrossEntropy(loss_scope)], is_head, inputs="features", refresh="phase")]

    return Method(
        name="linear_probe",
        title="linear probe",
        adapter=OnePromptConfig(layer_tokens={}, head=dict(head or {"type": "linear"})),
        phases=phases,
        optimizer=falling_adam(learning_rate, epochs, weight_decay),
        rule=Plain(),
    )


def nearest_class_mean() -> Method:
    """Class means of the untouched backbone's features under cosine similarity (SimpleCIL, Zhou et al., IJCV 2024). Nothing is trained."""
    return replace(frozen({"type": "prototype"}), name="nearest_class_mean", title="nearest class mean")


def lora(
    *,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    r: int = 8,
    head: Mapping[str, Any] | None = None,
    drift_map: Kind = "ridge",
    loss_scope: LossScope = "new",
    unfreeze_from: int | Literal["last"] | None = None,
    unfrozen_lr_factor: float = 0.01,
) -> Method:
    """LoRA (Hu et al., ICLR 2022) on q, k and v with a head, trained on session after session as if there were no other.

    Args:
        epochs, learning_rate, weight_decay: of each session.
        r: rank.
        head: its spec; None: linear.
        drift_map: under heads that are fitted, how their statistics follow the features.
        loss_scope: the classes that compete in the cross-entropy.
        unfreeze_from: the blocks from this one on train too, as CoACT's "controlled fine-tuning" has it (`last`: the last one alone; -1:
            everything), in copies that travel in the adapter. The type is ASYNC_LORA then, with LoRA on q and v, and no teacher.
        unfrozen_lr_factor: the rate of what is unfrozen, relative to LoRA's.

    Raises ValueError for a factor that is not positive.
    """
    if not unfrozen_lr_factor > 0:
        raise ValueError(f"unfrozen_lr_factor must be positive, got {unfrozen_lr_factor}.")
    spec = dict(head or {"type": "linear"})
    adapter, parts = plain_lora(r=r, head=spec), drift_parts(head, drift_map)
    if unfreeze_from is not None:
        adapter = AsyncLoraConfig(r=r, lora_alpha=r, lora_dropout=0.0, head=spec, unfreeze_from=unfreeze_from)
        parts = [Unfreeze(), *parts]

    def phases(session: Session) -> list[Phase]:
        return [Phase("train", epochs, [MaskedCrossEntropy(loss_scope)], everything)]

    return Method(
        name="lora",
        title="LoRA" if unfreeze_from is None else f"LoRA, unfrozen from block {unfreeze_from}",
        adapter=adapter,
        phases=phases,
        optimizer=falling_adam(learning_rate, epochs, weight_decay, factor=lambda name: unfrozen_lr_factor if COPIES in name else 1.0),
        rule=Plain(),
        parts=parts,
    )


@dataclass
class LinearProbeSettings(TrainedSettings):
    """Settings of `linear_probe`."""

    epochs: int = 20
    """Epochs over the features of a session."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    weight_decay: float = 0.0
    """Above 0: AdamW, decoupled, on adapter and head, not on norms and biases."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings, such as '{type: prototype}'."""

    def method(self) -> Method:
        made = linear_probe(
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            head=self.head,
            loss_scope=self.scope("new"),
        )
        return self.remembering(made)


@dataclass
class NearestClassMeanSettings(RunSettings):
    """Settings of `nearest_class_mean`: none of its own."""

    def method(self) -> Method:
        return nearest_class_mean()


@dataclass
class LoraSettings(LinearProbeSettings, AdapterSettings):
    """Settings of `lora`."""

    epochs: int = 20
    """Epochs over the images of a session."""
    r: int = 8
    """Rank."""
    drift_map: Kind = "ridge"
    """How class statistics of heads that are fitted follow the features: none, mean, sdc, ridge, procrustes, functional."""
    unfreeze_from: int | Literal["last"] | None = None
    """First block whose own weights train too, in copies that travel in the adapter; `last`, or -1 for everything."""
    unfrozen_lr_factor: float = 0.01
    """Rate of what is unfrozen, relative to LoRA's."""

    def method(self) -> Method:
        return self.completed(
            lora(
                epochs=self.epochs,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                r=self.r,
                head=self.head,
                drift_map=self.drift_map,
                loss_scope=self.scope("new"),
                unfreeze_from=self.unfreeze_from,
                unfrozen_lr_factor=self.unfrozen_lr_factor,
            )
        )
