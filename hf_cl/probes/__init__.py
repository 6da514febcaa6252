"""Probes: they observe a run and change nothing of it."""

from hf_cl.probes.stability import StabilityProbe

__all__ = ["StabilityProbe"]
