"""Configuration of the peft type ASYNC_LORA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, PeftType
from torch import nn

from hf_cl.adapters.async_lora.pooler_weights import read_pooler, without_pooler
from hf_cl.adapters.bases import signature
from hf_cl.adapters.config import HeadedConfig
from hf_cl.hints import refuse

EVERYTHING = -1
"""The value of `unfreeze_from` that unfreezes all blocks and the embeddings."""
LAST = "last"
"""The value of `unfreeze_from` that unfreezes the last block, whatever its number."""


@dataclass
class AsyncLoraConfig(HeadedConfig, PeftConfig):
    """Asynchronous LoRA (CoACT, Roy et al., TMLR 2025, arXiv 2405.16625): LoRA on query and value, and copies of what is unfrozen.

    "Controlled fine-tuning" trains the last blocks too. Their weights are per-adapter copies, never the base's own, so that adapters can be
    switched, disabled and saved. A teacher follows the copies by an exponential moving average; it has no LoRA and is no part of the file.

    Raises ValueError for sizes and decays out of range, a `bias` other than "none", an empty `layers_to_transform`, and for what
    `HeadedConfig` refuses.
    """

    r: int = field(default=16, metadata={"help": "rank of the LoRA matrices"})
    lora_alpha: float = field(default=16, metadata={"help": "the LoRA branch is scaled by lora_alpha / r"})
    lora_dropout: float = field(default=0.1, metadata={"help": "dropout on the input of the LoRA branch"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear modules that get LoRA; by default q_proj and v_proj of the vision tower"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "blocks that get LoRA; None: all"})
    layers_pattern: list[str] | str | None = field(
        default_factory=lambda: ["layers", "layer"], metadata={"help": "names of the module lists that number the blocks"}
    )
    bias: str = field(default="none", metadata={"help": "only `none`: what else trains is said by unfreeze_from"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "set at injection: the head"})
    init_weights: bool = field(
        default=True, metadata={"help": "False: B is random too, so that the adapter is no identity (peft's own tests)"}
    )
    head: dict[str, Any] | None = field(
        default_factory=lambda: {"type": "linear", "bias": False, "pooler": True},
        metadata={"help": "the official head reads the base checkpoint's pooler; `pooler: false` for bases without one"},
    )
    unfreeze_from: int | Literal["last"] | None = field(
        default=None,
        metadata={
            "help": "first block whose weights can be unfrozen; last: the last one, by its number from injection on; "
            "-1: all blocks and the embeddings; None: nothing"
        },
    )
    unfreeze_epoch: int = field(default=0, metadata={"help": "epoch of session 0 from which the unfrozen weights train"})
    unfrozen: bool = field(
        default=False, metadata={"help": "whether the copies are in use; set by unfreeze(), decides whether they are saved"}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "share of its old weights that the teacher keeps in an update"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ASYNC_LORA"]
        self.check_shared_fields()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(self.layers_to_transform, int):
            self.layers_to_transform = [self.layers_to_transform]
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}.")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}.")
        if not 0 <= self.ema_decay <= 1:
            raise ValueError(f"ema_decay must be in [0, 1], got {self.ema_decay}.")
        if self.bias != "none":
            raise ValueError(f"ASYNC_LORA trains no biases of the base (bias={self.bias!r}); unfreeze_from says what else trains.")
        if self.layers_to_transform == []:
            raise ValueError("layers_to_transform is empty, which peft would read as all layers; name blocks, or leave it None.")
        if self.unfreeze_from not in (None, LAST) and (isinstance(self.unfreeze_from, str) or self.unfreeze_from < EVERYTHING):
            raise ValueError(f"unfreeze_from must be a block, last, -1 (everything) or None, got {self.unfreeze_from!r}.")
        if self.unfreeze_epoch < 0:
            raise ValueError(f"unfreeze_epoch must be at least 0, got {self.unfreeze_epoch}.")
        if self.unfrozen and self.unfreeze_from is None:
            raise ValueError("unfrozen=True needs unfreeze_from: it says which weights the copies stand for.")

    @property
    def asks_for_pooler(self) -> bool:
        """Whether the head begins with the pooler of the base's checkpoint."""
        return (self.head or {}).get("pooler") is True

    def settle(self, model: nn.Module) -> None:
        """Give `last` its number on the base. Raises ValueError with all that does not fit: see `misfits`."""
        refuse(self._blocks_that_are_not(model))
        if self.unfreeze_from == LAST:
            self.unfreeze_from = signature(model)["depth"] - 1

    def misfits(self, model: nn.Module) -> list[str]:
        faults = self._blocks_that_are_not(model)
        if self.asks_for_pooler and read_pooler(model) is None:
            faults.insert(0, without_pooler(model))
        return faults

    def _blocks_that_are_not(self, model: nn.Module) -> list[str]:
        blocks = range(signature(model)["depth"])
        span = f"the base has blocks 0 to {blocks[-1]}"
        faults = []
        if self.unfreeze_from not in (None, LAST, EVERYTHING, *blocks):
            faults.append(f"unfreeze_from is {self.unfreeze_from}; {span}; last is the last of them, and -1 unfreezes everything.")
        missing = sorted(set(self.layers_to_transform or ()) - set(blocks))  # pyright: ignore[reportArgumentType]
        if missing:  # peft would skip them without a word
            faults.append(f"layers_to_transform names blocks {missing}; {span}.")
        return faults
