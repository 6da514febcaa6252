"""Configuration of the peft type LOW_RANK."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig, PeftType

from hf_cl.adapters.weight_config import WeightConfig


@dataclass
class LowRankConfig(WeightConfig, PeftConfig):
    """PELA's factors as an adapter (Guo et al., CVPR 2024, arXiv 2310.10700): `up down` in the place of each weight, with its own bias.

    The base stays whole beside them, as the teacher of the factors. What is to be smaller than the base is made of the trained adapter:
    `hf-cl compress RUN`.

    Raises ValueError for a ratio that is not above 1, and for what `HeadedConfig` refuses.
    """

    ratio: float = field(default=2.0, metadata={"help": "the factors of a matrix have 1/ratio of its entries"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear modules to factor, as names or a regex; None: those of attention and MLP"}
    )
    init_weights: bool = field(
        default=True, metadata={"help": "True: the best factors of their rank, by singular values; False: random ones, to compare with"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["LOW_RANK"]
        self.check_shared_fields()
        if not self.ratio > 1:
            raise ValueError(f"ratio must be above 1, got {self.ratio}: the factors of a matrix have 1/ratio of its entries.")
