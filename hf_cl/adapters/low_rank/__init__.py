"""Bases of low rank: two thin Linears in the place of one."""

from hf_cl.adapters.low_rank.factors import LowRankLinear, factors, is_low_rank, rank_of, ranks

__all__ = ["LowRankLinear", "factors", "is_low_rank", "rank_of", "ranks"]
