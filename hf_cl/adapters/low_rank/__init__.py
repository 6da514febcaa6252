"""LOW_RANK: two thin factors in the place of each weight, with the original beside them."""

from hf_cl._peft import register_type
from hf_cl.adapters.low_rank.config import LowRankConfig
from hf_cl.adapters.low_rank.layer import LowRankLayer
from hf_cl.adapters.low_rank.model import LowRankModel

__all__ = ["LowRankConfig", "LowRankLayer", "LowRankModel"]

register_type("LOW_RANK", LowRankConfig, LowRankModel)
