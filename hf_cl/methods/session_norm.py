"""LayerNorm tuning, and norms that are conditioned on the domain of an image.

LayerNorm tuning: Zhao et al., "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning" (ICLR 2024), which peft has as
LN_TUNING. The smooth condition is that of Liu et al., "Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models"
(NeurIPS 2024, arXiv 2406.09416; code: github.com/qihao067/DiMR), where the time of a diffusion stands in the place of a domain's number.
Its use on streams of domains, the table and how an image finds its domain are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_cl.adapters import SessionNormConfig
from hf_cl.contracts import Method, Part, Phase, Session, everything
from hf_cl.losses import MaskedCrossEntropy
from hf_cl.methods.adapt_sessions import AdapterSettings
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.optimizers import falling_adam
from hf_cl.methods.with_memory import LossScope
from hf_cl.parts import DomainRule
from hf_cl.rules import Plain

CITATION = """@inproceedings{liu2024alleviating,
  title={Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models},
  author={Liu, Qihao and Zeng, Zhanpeng and He, Ju and Yu, Qihang and Shen, Xiaohui and Chen, Liang-Chieh},
  booktitle={Advances in Neural Information Processing Systems},
  year={2024}
}"""


def session_norm(
    *,
    adapter: SessionNormConfig | None = None,
    epochs: int = 20,
    learning_rate: float = 1e-3,
    loss_scope: LossScope = "new",
) -> Method:
    """Scales, shifts and head on cross-entropy, session after session.

    Under `table` a domain's norms rest while another trains. So there is no drift map beside a head that is fitted: where each session is a
    domain of its own, features of earlier ones stand still.

    Args:
        adapter: SESSION_NORM; None: the defaults, which are LayerNorm tuning, under a linear head.
        epochs: of each session.
        learning_rate: of Adam, at the start of each session; a cosine over its epochs.
        loss_scope: classes that compete: the session's "new" ones, or all "seen".
    """
    adapter = adapter or SessionNormConfig(head={"type": "linear"})
    parts: list[Part] = [] if adapter.conditioning == "none" else [DomainRule()]

    def phases(session: Session) -> list[Phase]:
        return [Phase("train", epochs, [MaskedCrossEntropy(loss_scope)], everything)]

    return Method(
        name="session_norm",
        title="LayerNorm tuning" if adapter.conditioning == "none" else f"norms by domain ({adapter.conditioning})",
        citation=CITATION,
        adapter=adapter,
        phases=phases,
        optimizer=falling_adam(learning_rate, epochs),
        rule=Plain(),
        parts=[*parts, *([] if adapter.conditioning == "table" else drift_parts(adapter.head))],
    )


@dataclass
class SessionNormSettings(AdapterSettings):
    """Settings of the recipe `session_norm`."""

    epochs: int = 20
    """Epochs of each session."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    conditioning: Literal["none", "table", "interpolate"] = "none"
    """Of what scale and shift of a norm depend: nothing, the domain of the image, or a number of that domain."""
    codes: dict[str, float] | None = None
    """For `interpolate` the number of each domain, such as '{night: 0, dusk: 6, noon: 12}'."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings, such as '{type: gaussian}'."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = SessionNormConfig(conditioning=self.conditioning, codes=self.codes, head=dict(self.head))
        made = session_norm(adapter=adapter, epochs=self.epochs, learning_rate=self.learning_rate, loss_scope=self.scope("new"))
        return self.completed(made)
