"""The discrete key-value bottleneck (Träuble et al.: ICML 2023): frozen keys choose which values are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_cl.adapters import OnePromptConfig
from hf_cl.contracts import Method, NamedParameters, Phase, Schedule, Session, is_head
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.schedules import constant
from hf_cl.methods.with_memory import LossScope, TrainedSettings
from hf_cl.rules import Plain

CITATION = """@inproceedings{trauble2023discrete,
  title={Discrete Key-Value Bottleneck},
  author={Tr{\\"a}uble, Frederik and Goyal, Anirudh and Rahaman, Nasim and Mozer, Michael Curtis and Kawaguchi, Kenji and Bengio, Yoshua
          and Sch{\\"o}lkopf, Bernhard},
  booktitle={International Conference on Machine Learning},
  year={2023}
}"""


def dkvb(*, epochs: int = 10, learning_rate: float = 0.3, head: Mapping[str, Any] | None = None, loss_scope: LossScope = "seen") -> Method:
    """A `DKVBHead` on features of the untouched backbone, which are computed once per session. All classes compete, and plain SGD moves
    the values of chosen keys alone.

    Args:
        epochs: over the features of a session.
        learning_rate: of SGD, times the number of codebooks, since the gradient of each value is that share of the loss.
        head: settings of the head; its type is `dkvb`.
        loss_scope: classes that compete: all "seen", or the session's "new" ones.

    Raises ValueError for a head of another type.
    """
    spec = {"type": "dkvb", **(head or {})}
    if spec["type"] != "dkvb":
        raise ValueError(f"dkvb has its own head, which a head of type {spec['type']} does not replace; leave `type` out.")
    loss = MaskedCrossEntropy(loss_scope)

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        rate = learning_rate * int(spec.get("codebooks", 64))
        return torch.optim.SGD([p for _, p in named_parameters], lr=rate), constant(rate)

    return Method(
        name="dkvb",
        title="discrete key-value bottleneck",
        citation=CITATION,
        adapter=OnePromptConfig(layer_tokens={}, head=spec),
        phases=lambda session: [Phase("values", epochs, [loss], is_head, inputs="features", refresh="phase")],
        optimizer=optimizer,
        rule=Plain(),
    )


@dataclass
class DkvbSettings(TrainedSettings):
    """Settings of `dkvb`."""

    epochs: int = 10
    """Epochs over the features of a session."""
    learning_rate: float = 0.3
    """Of plain SGD, times the number of codebooks."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "dkvb"})
    """Settings of the head, such as '{type: dkvb, keys: 512}'."""

    def method(self) -> Method:
        made = dkvb(epochs=self.epochs, learning_rate=self.learning_rate, head=self.head, loss_scope=self.scope("seen"))
        return self.remembering(made)
