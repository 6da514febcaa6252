"""The drift map of methods that train an adapter under a head of statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.contracts import Head, Part
from hf_cl.heads import HEADS
from hf_cl.parts import DriftMap
from hf_cl.parts.drift_map import Kind


def drift_parts(head: Mapping[str, Any] | None, kind: Kind = "ridge") -> list[Part]:
    """A `DriftMap` where the head is fitted to statistics, which go stale as the adapter trains on; nothing under other heads."""
    make = HEADS.get((head or {}).get("type", ""))
    fits = isinstance(make, type) and issubclass(make, Head) and make.fits
    return [DriftMap(kind)] if fits else []
