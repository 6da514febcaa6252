"""Configuration of the peft type MASK_TUNING."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft import PeftConfig, PeftType

from hf_cl.adapters.weight_config import WeightConfig


@dataclass
class MaskTuningConfig(WeightConfig, PeftConfig):
    """Mask tuning (R-AMT; Zheng et al., ICCV 2023, arXiv 2307.15049): weights of the base are kept or set to zero, and nothing else.

    Every weight has a score; it is used where its score is above `threshold`. Only scores train, straight through the comparison. A file
    holds one bit per weight, not the scores: an adapter that is trained on begins with scores of `init_value` (kept) and 0 (masked).

    Raises ValueError for an `init_value` that does not lie above the threshold (everything would be masked at the start), another value of
    `sessions`, and for what `HeadedConfig` refuses.
    """

    target_modules: list[str] | str | None = field(
        default=None,
        metadata={"help": "modules whose weights are masked, Linear or Conv2d; None: the attention projections of the vision tower"},
    )
    threshold: float = field(default=5e-3, metadata={"help": "a weight is used where its score is above it, strictly"})
    init_value: float = field(default=1e-2, metadata={"help": "of all scores at the start: every weight is used"})
    sessions: Literal["continue", "stack"] = field(
        default="continue",
        metadata={"help": "continue: one mask, trained on and on; stack: what a session has masked stays masked in all later ones"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["MASK_TUNING"]
        self.check_shared_fields()
        if not self.init_value > self.threshold:
            raise ValueError(
                f"init_value {self.init_value} must lie above the threshold {self.threshold}: else everything is masked at the start."
            )
        if self.sessions not in ("continue", "stack"):
            raise ValueError(f"sessions must be continue or stack, got {self.sessions!r}.")
