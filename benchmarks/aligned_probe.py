"""SLCA's alignment of rows without its slow learner: `linear_probe` on the untouched backbone, then all rows on drawn features.

What alignment is worth by itself, for the tables of `compare_methods.py`; a method of the tables alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hf_cl.contracts import Method
from hf_cl.methods.baselines import LinearProbeSettings
from hf_cl.parts import ClassifierAlignment, OldRowsRest


@dataclass
class AlignedProbeSettings(LinearProbeSettings):
    """Settings of `linear_probe`."""

    def method(self) -> Method:
        made = super().method()
        return replace(made, title="linear probe, rows aligned", parts=[*made.parts, ClassifierAlignment(), OldRowsRest()])
