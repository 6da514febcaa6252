"""From an adapter, or several, by Hub id or folder, to names for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch

from hf_cl.hub.classifier import Classifier, Opener
from hf_cl.hub.ensemble import Average, Ensemble, check_together


@overload
def load(
    adapter: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base_model: str | None = None,
) -> Classifier: ...
@overload
def load(
    adapter: Sequence[str | Path],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base_model: str | None = None,
    average: Average = "probability",
) -> Ensemble: ...
def load(
    adapter: str | Path | Sequence[str | Path],
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    base_model: str | None = None,
    average: Average = "probability",
) -> Classifier | Ensemble:
    """The classifier that an adapter makes of its base, which the adapter names; of a list of adapters, their average over one backbone.

    Args:
        adapter: a Hub id, an adapter folder, or a run folder (its last session); a list of these for an ensemble. What is cached needs no
            network (`HF_HUB_OFFLINE=1`).
        revision: of the Hub id or run folder: `session-3` is the model as it was after session 3. A list has it in common.
        device: the GPU where there is one, by default.
        dtype: of the base: float32 (default), float16 or bfloat16. Adapter and head stay float32.
        base_model: where the base is, if not where the adapter says.
        average: of an ensemble, "probability" (mean of the members' probabilities) or "log" (of their logarithms, renormalised).

    Raises ValueError where there is no adapter of hf_cl, its files are damaged or do not fit together, its base cannot be found, device
    or dtype are none, or members do not go together; HubError, which is one, for what the Hub did not give. Nothing in the files is
    executed.
    """
    if isinstance(adapter, str | Path):
        return Opener(device, dtype, base_model).open(adapter, revision)
    check_together(adapter, revision, average)
    opener = Opener(device, dtype, base_model, shared=True)
    return Ensemble([opener.open(one, revision) for one in adapter], average)
