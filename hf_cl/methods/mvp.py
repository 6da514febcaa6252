"""MVP: mask and visual prompt tuning, the method published with the Si-Blurry stream (Moon et al.: ICCV 2023, arXiv 2308.09303; code:
github.com/moonjunyyy/Si-Blurry)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from hf_cl.adapters import PromptPoolConfig
from hf_cl.contracts import LossTerm, Method, NamedParameters, Phase, Schedule, Session, everything
from hf_cl.losses import ContrastiveKeys, MvpLoss, PromptKeys
from hf_cl.losses.contrastive_keys import Contrast
from hf_cl.methods.optimizers import adam
from hf_cl.methods.schedules import constant
from hf_cl.methods.with_memory import OptimizerLasts, TrainedSettings
from hf_cl.parts import PoolUsage
from hf_cl.rules import Plain

CITATION = """@inproceedings{moon2023siblurry,
  title={Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual Prompt Tuning},
  author={Moon, Jun-Yeong and Park, Keon-Hee and Kim, Jung Uk and Park, Gyeong-Moon},
  booktitle={IEEE/CVF International Conference on Computer Vision},
  year={2023}
}"""


def mvp(*, adapter: PromptPoolConfig, losses: Sequence[LossTerm], epochs: int = 1, learning_rate: float = 5e-3) -> Method:
    """A pool and a head, trained on the images as they come.

    Args:
        adapter: PROMPT_POOL of the producer mvp, under a linear head or one of type instance_mask.
        losses: `MvpLoss`, and the loss of the keys.
        epochs: of each session; 1 on a stream.
        learning_rate: of Adam, constant.
    """

    def optimizer(session: Session, named_parameters: NamedParameters) -> tuple[torch.optim.Optimizer, Schedule]:
        return adam(named_parameters, learning_rate, constant(learning_rate))

    return Method(
        name="mvp",
        title="MVP",
        citation=CITATION,
        adapter=adapter,
        phases=lambda session: [Phase("train", epochs, losses, everything)],
        optimizer=optimizer,
        rule=Plain(),
        parts=[PoolUsage()],
    )


@dataclass
class MvpSettings(TrainedSettings):
    """Settings of `mvp`; the defaults are the official ones."""

    updates_per_batch: int = 3
    """Optimizer steps on each batch before the next one comes, on the same augmented images."""
    optimizer_lasts: OptimizerLasts = "run"
    """Whether a `session` begins with a new optimizer, or its state goes on through the `run`."""
    epochs: int = 1
    """Epochs of each session; on a stream each image comes once."""
    learning_rate: float = 5e-3
    """Of Adam, constant."""
    pool_size: int = 10
    """Entries of the pool."""
    top_k: int = 1
    """Entries that an image gets."""
    e_layers: list[int] | None = None
    """Layers (from 0) whose rows are chosen by the image's query; absent: 2, 3, 4."""
    e_tokens: int = 20
    """Prompts of an entry in a layer."""
    g_layers: list[int] | None = None
    """Layers (from 0) whose rows all images share; absent: 0, 1."""
    g_tokens: int = 5
    """Prompts that all images share in a layer."""
    mode: Literal["tuning", "prefix"] = "tuning"
    """Prompts are tokens of their block, or rows for its keys and its values."""
    query: Literal["penultimate", "last"] = "penultimate"
    """The block after which the query is taken."""
    balance: bool = True
    """Whether the distance to an entry grows with how often it was chosen, and keys are kept apart."""
    key_contrast: Contrast = "official"
    """The key loss with `balance`: masses of all images mixed as in the code, each image's own, or without a key's distance to itself."""
    mask: bool = True
    """Whether each entry masks the logits (head instance_mask)."""
    feature_scaling: bool = True
    """Whether features are divided by how far they are from their class's row."""
    focal: bool = True
    """Whether images whose gradient disagrees with the batch's raise the loss."""
    per_sample: bool = False
    """Whether such an image is weighted by itself, as the paper's words have it, or raises the loss of the batch, as the code does."""
    alpha: float = 0.5
    """Share of the focal part."""
    gamma: float = 2.0
    """Exponent of the focal part."""
    margin: float = 0.5
    """What is added to a feature's distance before it is divided by."""

    def method(self) -> Method:
        """The method these settings describe."""
        head: dict[str, Any] = {"type": "instance_mask", "pool_size": self.pool_size} if self.mask else {"type": "linear"}
        adapter = PromptPoolConfig(
            producer="mvp",
            pool_size=self.pool_size,
            top_k=self.top_k,
            e_layers=self.e_layers,
            e_tokens=self.e_tokens,
            g_layers=self.g_layers,
            g_tokens=self.g_tokens,
            mode=self.mode,
            query=self.query,
            balance=self.balance,
            head=head,
        )
        main = MvpLoss(self.alpha, self.gamma, self.margin, self.feature_scaling, self.focal, self.per_sample)
        keys = ContrastiveKeys(contrast=self.key_contrast) if self.balance else PromptKeys()
        return self.remembering(mvp(adapter=adapter, losses=[main, keys], epochs=self.epochs, learning_rate=self.learning_rate))
