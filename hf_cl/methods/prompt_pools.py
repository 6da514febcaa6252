"""L2P, DualPrompt and CODA-Prompt: the prompt pools that prefix and prompt methods are compared with.

Settings are those of github.com/GT-RIPL/CODA-Prompt, whose L2P ("L2P++") has prefix rows and chooses image by image. Each can be followed
by OVOR's virtual outliers, as that paper does it (Huang et al., ICLR 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hf_cl.adapters import PromptPoolConfig
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, everything, is_head
from hf_cl.losses import MaskedCrossEntropy, OrthogonalPrompts, PromptKeys, VirtualOutliers
from hf_cl.methods.adapt_sessions import AdapterSettings, AdaptSessions
from hf_cl.methods.drift import drift_parts
from hf_cl.methods.optimizers import adam
from hf_cl.methods.schedules import lagging_cosine
from hf_cl.parts.drift_map import Kind
from hf_cl.rules import Plain

KeyScaling = Literal["per_image", "ovor", "coda"]
_KEYS: dict[tuple[str, str], dict[str, Any]] = {
    ("l2p", "ovor"): {"over": "pairs"},
    ("l2p", "coda"): {"over": "pairs", "reduction": "sum"},
    ("dual", "coda"): {"reduction": "sum"},
}
"""(producer, whose code) -> arguments of `PromptKeys`; those that are not here are the defaults."""

L2P_CITATION = """@inproceedings{wang2022l2p,
  title={Learning to Prompt for Continual Learning},
  author={Wang, Zifeng and Zhang, Zizhao and Lee, Chen-Yu and Zhang, Han and Sun, Ruoxi and Ren, Xiaoqi and Su, Guolong and
          Perot, Vincent and Dy, Jennifer and Pfister, Tomas},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2022}
}"""
DUALPROMPT_CITATION = """@inproceedings{wang2022dualprompt,
  title={{DualPrompt}: Complementary Prompting for Rehearsal-free Continual Learning},
  author={Wang, Zifeng and Zhang, Zizhao and Ebrahimi, Sayna and Sun, Ruoxi and Zhang, Han and Lee, Chen-Yu and Ren, Xiaoqi and
          Su, Guolong and Perot, Vincent and Dy, Jennifer and Pfister, Tomas},
  booktitle={European Conference on Computer Vision},
  year={2022}
}"""
CODA_CITATION = """@inproceedings{smith2023coda,
  title={{CODA-Prompt}: Continual Decomposed Attention-based Prompting for Rehearsal-Free Continual Learning},
  author={Smith, James Seale and Karlinsky, Leonid and Gutta, Vyshnavi and Cascante-Bonilla, Paola and Kim, Donghyun and
          Arbelle, Assaf and Panda, Rameswar and Feris, Rogerio and Kira, Zsolt},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2023}
}"""


@dataclass
class PoolSettings(AdapterSettings):
    """What the three recipes share."""

    epochs: int = 20
    """Epochs of pool and head."""
    vor_epochs: int = 0
    """Epochs of the head on features with OVOR's virtual outliers, afterwards."""
    learning_rate: float = 1e-3
    """Of Adam, at the start of each session."""
    weight_decay: float = 0.0
    """Above 0: AdamW, decoupled, on adapter and head, not on norms and biases."""
    e_layers: list[int] | None = None
    """Layers (from 0) whose rows are chosen by the image's query; absent: the published ones."""
    head: dict[str, Any] = field(default_factory=lambda: {"type": "linear"})
    """The head and its settings: linear (official), cosine, prototype, gaussian."""
    drift_map: Kind = "ridge"
    """How class statistics of heads that are fitted follow the features: none, mean, sdc, ridge, procrustes, functional."""


def prompt_pool(
    settings: PoolSettings, name: str, adapter: PromptPoolConfig, terms: Sequence[LossTerm], title: str, citation: str
) -> Method:
    """A pool trained with masked cross-entropy and `terms`, then, where `vor_epochs` says so, its head against virtual outliers."""
    cross_entropy, outliers = MaskedCrossEntropy(settings.scope("new")), VirtualOutliers()
    epochs, vor_epochs, rate = settings.epochs, settings.vor_epochs, settings.learning_rate

    def phases(session: Session) -> list[Phase]:
        of_the_pool = terms if session.id == 0 or adapter.grows else []  # which else rests
        train = Phase("train", epochs, [cross_entropy, *of_the_pool], everything)
        return [train, Phase("vor", vor_epochs, [cross_entropy, outliers], is_head, inputs="features")]

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        return adam(named_parameters, rate, lagging_cosine(rate, epochs + vor_epochs), settings.weight_decay)

    method = Method(
        name=name,
        adapter=adapter,
        phases=phases,
        optimizer=optimizer,
        rule=Plain(),
        parts=[*drift_parts(settings.head, settings.drift_map)],
        title=f"{title} with OVOR's outliers" if vor_epochs else title,
        citation=citation,
    )
    return settings.completed(method)


def grows(which: AdaptSessions) -> bool:
    """Whether sessions add entries: not where the adapter rests, which would leave them untrained."""
    return which == "all"


@dataclass
class L2PSettings(PoolSettings):
    """L2P: prompts of a pool, chosen image by image by the keys next to its query.

    The defaults are the official CIFAR-100 setting.
    """

    e_tokens: int = 10
    """Rows of a prompt for the keys, and as many for the values."""
    pool_size: int = 30
    """Prompts of the pool."""
    top_k: int = 5
    """Prompts that an image gets."""
    key_scaling: KeyScaling = "per_image"
    """The key loss: each image pulls its own prompts, or as the code of ovor (all pairs, mean) or coda (all pairs, sum) has it."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = PromptPoolConfig(
            producer="l2p",
            e_layers=self.e_layers,
            e_tokens=self.e_tokens,
            pool_size=self.pool_size,
            top_k=self.top_k,
            grows=grows(self.adapt_sessions),
            head=dict(self.head),
        )
        return prompt_pool(self, "l2p", adapter, [PromptKeys(**_KEYS.get(("l2p", self.key_scaling), {}))], "L2P", L2P_CITATION)


@dataclass
class DualPromptSettings(PoolSettings):
    """DualPrompt: prompts of all sessions in early blocks, of one session each in later ones.

    The defaults are the official CIFAR-100 setting.
    """

    e_tokens: int = 20
    """Rows of a session's entry for the keys, and as many for the values."""
    g_layers: list[int] | None = None
    """Layers (from 0) whose rows all images share; absent: the published ones."""
    g_tokens: int = 5
    """Rows that all images share, of keys and of values."""
    key_scaling: KeyScaling = "per_image"
    """The key loss: a mean (per_image, ovor), or a sum over images and layers as the code of coda has it."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = PromptPoolConfig(
            producer="dual",
            e_layers=self.e_layers,
            e_tokens=self.e_tokens,
            g_layers=self.g_layers,
            g_tokens=self.g_tokens,
            grows=grows(self.adapt_sessions),
            head=dict(self.head),
        )
        keys = PromptKeys(**_KEYS.get(("dual", self.key_scaling), {}))
        return prompt_pool(self, "dualprompt", adapter, [keys], "DualPrompt", DUALPROMPT_CITATION)


@dataclass
class CodaPromptSettings(PoolSettings):
    """CODA-Prompt: prompts mixed from components, image by image, by attention.

    The defaults are the official CIFAR-100 setting.
    """

    e_tokens: int = 4
    """Rows of a component for the keys, and as many for the values."""
    components_per_session: int = 10
    """Components that each session adds."""
    orthogonality: float = 0.0
    """Weight of the orthogonality penalty; the published scripts have 0, the paper names 0.1."""

    def method(self) -> Method:
        """The method these settings describe."""
        adapter = PromptPoolConfig(
            producer="coda",
            e_layers=self.e_layers,
            e_tokens=self.e_tokens,
            components_per_session=self.components_per_session,
            grows=grows(self.adapt_sessions),
            head=dict(self.head),
        )
        penalties = [OrthogonalPrompts(self.orthogonality)] if self.orthogonality else []
        return prompt_pool(self, "coda_prompt", adapter, penalties, "CODA-Prompt", CODA_CITATION)
