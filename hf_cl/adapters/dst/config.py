"""Configuration of the peft type DST."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig, PeftType

from hf_cl.adapters.field_types import check_choice
from hf_cl.adapters.weight_config import WeightConfig

_CHOICES = {"init": ("uniform", "erk"), "death": ("magnitude", "taylor", "set"), "growth": ("gradient", "random", "random_unfired")}


@dataclass
class DstConfig(WeightConfig, PeftConfig):
    """Dynamic sparse training (Yildirim et al., CPAL 2024, arXiv 2308.14831): sparse differences whose positions are rewired as they train.

    The paper trains networks from scratch; here the difference to the frozen base is sparse. Each session has a set of entries of its own,
    outside of those of earlier ones, which stay as they are. How often and how much is rewired, `hf_cl.methods.dst` says. A config belongs
    to one model: injection writes `nnz_pattern` into it.

    Raises ValueError for a `density` outside (0, 1), unknown values of `init`, `death` and `growth`, and for what `HeadedConfig` refuses.
    """

    density: float = field(default=0.05, metadata={"help": "share of the entries of all targets together that a session trains"})
    init: Literal["uniform", "erk"] = field(
        default="uniform", metadata={"help": "how they are spread over the layers: evenly, or erk (Erdos-Renyi kernel): small ones denser"}
    )
    death: Literal["magnitude", "taylor", "set"] = field(
        default="magnitude",
        metadata={"help": "which entries go: the smallest, those of the smallest (value * gradient)^2, or the smallest of each sign"},
    )
    growth: Literal["gradient", "random", "random_unfired"] = field(
        default="gradient",
        metadata={"help": "which come: of the largest gradient, any, or those first that this session has not had"},
    )
    grows: bool = field(default=True, metadata={"help": "whether later sessions get entries; False where they do not train the adapter"})
    seed: int = field(default=0, metadata={"help": "of the first positions of each session"})
    nnz_pattern: dict[str, int] = field(
        default_factory=dict, metadata={"help": "module -> entries of a session; written at injection, read at loading"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["DST"]
        self.check_shared_fields()
        if not 0 < self.density < 1:
            raise ValueError(f"density must lie strictly between 0 and 1, got {self.density}: it is the share of entries that trains.")
        for name, choices in _CHOICES.items():
            check_choice(name, getattr(self, name), choices)

    @property
    def sessions(self) -> int:
        """Sessions that have brought entries."""
        return max(1, len(self.classes_per_session or ())) if self.grows else 1

    @property
    def wants_dense_gradient(self) -> bool:
        """Whether a rewiring reads gradients of entries that do not train, or those of the last step."""
        return self.growth == "gradient" or self.death == "taylor"
