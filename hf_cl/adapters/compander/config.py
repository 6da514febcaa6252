"""Configuration of the peft type COMPANDER."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig, PeftType

from hf_cl.adapters.weight_config import WeightConfig


@dataclass
class CompanderConfig(WeightConfig, PeftConfig):
    """Weight compander in the arctan form: what changes a weight passes through `a arctan(v / b)`, which is bounded.

    After Cakaj, Mehnert and Yang, "Weight Compander" (arXiv 2306.16993). The equation is not checked against the paper, which has no
    public code, and the paper trains networks from scratch: both uses on a frozen base are this package's own.

    Raises ValueError for `bound`, `slope` or `lora_alpha` that are not positive, a rank below 1, an unknown mode, and for what
    `HeadedConfig` refuses.
    """

    mode: Literal["delta", "residual"] = field(
        default="delta",
        metadata={
            "help": "delta: a LoRA product that cannot leave its bound; residual: two scalars a layer, which reshape the weights there are"
        },
    )
    r: int = field(default=4, metadata={"help": "delta: rank of the product before the bound"})
    lora_alpha: float = field(default=4.0, metadata={"help": "delta: the product is scaled by lora_alpha / r"})
    bound: float = field(
        default=0.5, metadata={"help": "a at the start, as a limit: a pi/2 is this share of the standard deviation of the layer's weight"}
    )
    slope: float = field(default=1.0, metadata={"help": "a / b at the start: how fast a small change moves"})
    learn: bool = field(
        default=False, metadata={"help": "delta: a and b are trained too, and the limit moves with them; in residual they always are"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["COMPANDER"]
        self.check_shared_fields()
        if self.mode not in ("delta", "residual"):
            raise ValueError(f"mode must be delta or residual, got {self.mode!r}.")
        for name in ("bound", "slope", "lora_alpha"):
            value: Any = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}.")

    @property
    def learns(self) -> bool:
        """Whether a and b train."""
        return self.learn or self.mode == "residual"
