"""Probes: they observe a run and change nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hf_cl.contracts import Probe
from hf_cl.hints import build
from hf_cl.probes.active_entries import ActiveEntries
from hf_cl.probes.anytime_accuracy import AnytimeAccuracy
from hf_cl.probes.calibration import Calibration
from hf_cl.probes.compander_bounds import CompanderBounds
from hf_cl.probes.epochs import EpochProbe
from hf_cl.probes.forgetting_events import ForgettingEvents
from hf_cl.probes.isolated_accuracy import IsolatedAccuracy
from hf_cl.probes.kept_dimensions import KeptDimensions
from hf_cl.probes.masked_share import MaskedShare
from hf_cl.probes.memorization import MemorizationProbe
from hf_cl.probes.novelty import Novelty
from hf_cl.probes.prequential import Prequential
from hf_cl.probes.sharpness import SharpnessProbe
from hf_cl.probes.softmax_collapse import SoftmaxCollapse
from hf_cl.probes.stability import StabilityProbe
from hf_cl.probes.suspected_labels import SuspectedLabels

PROBES: dict[str, Callable[..., Probe]] = {
    "stability": StabilityProbe,
    "active_entries": ActiveEntries,
    "calibration": Calibration,
    "softmax_collapse": SoftmaxCollapse,
    "suspected_labels": SuspectedLabels,
    "sharpness": SharpnessProbe,
    "anytime_accuracy": AnytimeAccuracy,
    "prequential": Prequential,
    "forgetting_events": ForgettingEvents,
    "epochs": EpochProbe,
    "memorization": MemorizationProbe,
    "kept_dimensions": KeptDimensions,
    "novelty": Novelty,
    "compander_bounds": CompanderBounds,
    "masked_share": MaskedShare,
    "isolated_accuracy": IsolatedAccuracy,
}
"""Name -> what makes it; the entries of its spec are its keyword arguments."""

__all__ = [
    "PROBES",
    "ActiveEntries",
    "AnytimeAccuracy",
    "Calibration",
    "CompanderBounds",
    "EpochProbe",
    "ForgettingEvents",
    "IsolatedAccuracy",
    "KeptDimensions",
    "MaskedShare",
    "MemorizationProbe",
    "Novelty",
    "Prequential",
    "SharpnessProbe",
    "SoftmaxCollapse",
    "StabilityProbe",
    "SuspectedLabels",
    "build_probes",
]


def build_probes(specs: Mapping[str, Mapping[str, Any]], stability_every: int | None = None) -> list[Probe]:
    """The probes that settings name. `stability_every` is short for `{"stability": {"every": ...}}`.

    Raises ValueError for an unknown name or setting, and where the stability probe is asked for by both.
    """
    if stability_every is not None and "stability" in specs:
        raise ValueError("stability_every is the short form of probes: {stability: {every: N}}; give one of the two.")
    short = {} if stability_every is None else {"stability": {"every": stability_every}}
    return [build("probe", PROBES, {"type": name, **spec}) for name, spec in {**specs, **short}.items()]
