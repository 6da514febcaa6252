"""Configuration of the peft type SARA."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig, PeftType

from hf_cl.adapters.field_types import check_choice
from hf_cl.adapters.weight_config import WeightConfig

_CHOICES = {"rank_mode": ("one", "all"), "rank_on": ("value", "delta"), "decay": ("value", "delta")}


@dataclass
class SaraConfig(WeightConfig, PeftConfig):
    """SaRA (Hu et al., ICLR 2025, arXiv 2409.06633): train those entries of the base's weights that are smallest in magnitude.

    The adapter holds positions and differences, so it can be disabled, merged, scaled and added to others. A config belongs to one model:
    injection writes `nnz_pattern` and `weight_shapes` into it. For another base make a new config.

    Raises ValueError for a `density` outside (0, 1), a `threshold` that is not positive, unknown values of `rank_mode`, `rank_on` and
    `decay`, and for what `HeadedConfig` refuses.
    """

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "modules to adapt: Linear, Conv2d, and with include_bias_norm also norms"}
    )
    threshold: float = field(
        default=2e-3, metadata={"help": "entries with |w| strictly below it are trained; the same for every tensor; unused with density"}
    )
    density: float | None = field(
        default=None, metadata={"help": "share of each tensor that is trained, smallest first, at least one entry; wins over threshold"}
    )
    include_bias_norm: bool = field(
        default=False, metadata={"help": "also biases of the targeted modules; target_modules may then name norm layers"}
    )
    block_rows: int = field(
        default=0, metadata={"help": "rows of the weight gradient that exist at a time in the backward pass of a Linear; 0: all"}
    )
    lambda_rank: float = field(
        default=0.0,
        metadata={
            "help": "weight of the nuclear-norm term. This and the next five fields record how the adapter is trained; hf_cl.methods.sara "
            "builds term, switch and optimizer from them, inference ignores them"
        },
    )
    rank_mode: Literal["one", "all"] = field(
        default="one", metadata={"help": "one: a random matrix per step (official code); all: their sum (paper)"}
    )
    rank_on: Literal["value", "delta"] = field(
        default="value", metadata={"help": "what the norm is taken of: the trained entries' values (official) or their change"}
    )
    rank_min_dim: int = field(default=64, metadata={"help": "the term takes matrices whose sides are both larger"})
    rank_min_nnz: int = field(default=100, metadata={"help": "and that have more trained entries than this"})
    progressive_iter: int | None = field(
        default=None, metadata={"help": "optimizer steps before entries that have left the threshold are frozen; None: never"}
    )
    decay: Literal["value", "delta"] = field(
        default="value", metadata={"help": "what weight decay shrinks: the entry's value (official) or its change"}
    )
    nnz_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "module -> number of trained entries; written at injection, read at loading"}
    )
    weight_shapes: dict[str, list[int]] = field(
        default_factory=dict, metadata={"help": "module -> shape of its weight; written at injection, checked at loading"}
    )
    has_inactive: bool = field(default=False, metadata={"help": "whether the file holds sara_active; written when the adapter is saved"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["SARA"]
        self.check_shared_fields()
        self._check_selection()
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)
        if self.progressive_iter is not None and self.progressive_iter < 1:
            raise ValueError(f"progressive_iter must be at least 1, or None for no switch; got {self.progressive_iter}.")

    def _check_selection(self) -> None:
        if self.density is None:
            if not (self.threshold or 0.0) > 0:  # a file may say null
                raise ValueError(f"threshold must be positive, got {self.threshold}: |w| < threshold selects nothing otherwise.")
        elif not 0 < self.density < 1:
            raise ValueError(f"density must lie strictly between 0 and 1, got {self.density}: it is the share of entries that trains.")
        if self.block_rows < 0:
            raise ValueError(f"block_rows must be 0 (the whole gradient at once) or a number of rows, got {self.block_rows}.")
