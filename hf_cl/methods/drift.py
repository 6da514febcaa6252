"""The drift map of methods that train an adapter under a head of statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_cl.contracts import Part
from hf_cl.methods.adapt_sessions import is_fitted
from hf_cl.parts import DriftMap
from hf_cl.parts.drift_map import Kind


def drift_parts(head: Mapping[str, Any] | None, kind: Kind = "ridge") -> list[Part]:
    """A `DriftMap` where the head is fitted to statistics, which go stale as the adapter trains on; nothing under other heads."""
    return [DriftMap(kind)] if is_fitted(head) else []
