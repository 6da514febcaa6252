"""peft's SHiRA (Bhardwaj et al., NeurIPS 2024) through hf_cl's loop: a baseline for SaRA, which trains as many entries but chooses them.

SHiRA trains `r * (rows + columns)` random entries of each matrix. `HeadedShira` adds to peft's tuner what the loop asks of an adapter:
class names and a head. It is a type of this folder, no part of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftType, ShiraConfig
from peft.tuners.shira import ShiraModel

from hf_cl._peft import register_type
from hf_cl.adapters.bases import SUPPORT, YES
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.contracts import Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.schedules import cosine
from hf_cl.rules import Plain
from hf_cl.settings import RunSettings

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


@dataclass
class HeadedShiraConfig(HeadedConfig, ShiraConfig):
    """SHiRA with class names and a head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["HEADED_SHIRA"]
        self.check_shared_fields()


class HeadedShira(HeadedTuner, ShiraModel):
    """peft's tuner with a head at the classifier's place."""


SUPPORT["HEADED_SHIRA"] = {"vit": YES}
register_type("HEADED_SHIRA", HeadedShiraConfig, HeadedShira)


def shira(*, epochs: int, learning_rate: float, r: int, head: Mapping[str, Any], seed: int) -> Method:
    """SHiRA and a head, trained on session after session as if there were no other, by Adam as the baseline LoRA is."""

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        return torch.optim.Adam([p for _, p in named_parameters], lr=learning_rate), cosine([learning_rate], epochs)

    return Method(
        name="shira",
        title="SHiRA",
        adapter=HeadedShiraConfig(target_modules=TARGETS, r=r, random_seed=seed, head=dict(head)),
        phases=lambda session: [Phase("train", epochs, [MaskedCrossEntropy()], everything)],
        optimizer=optimizer,
        rule=Plain(),
    )


@dataclass
class ShiraSettings(RunSettings):
    """Settings of `shira`."""

    epochs: int = 20
    """Epochs of each session."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    r: int = 8
    """r (rows + columns) entries of each attention and MLP matrix train, as many as a LoRA of that rank has there."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings."""

    def method(self) -> Method:
        """The method these settings describe."""
        return shira(epochs=self.epochs, learning_rate=self.learning_rate, r=self.r, head=self.head, seed=self.seed)
