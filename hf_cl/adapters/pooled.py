"""The pooled output of a CLIP or SigLIP vision tower, which transformers' image classifiers leave unused.

`CLIPForImageClassification` and `SiglipForImageClassification` classify the mean of the patch tokens. What the towers were trained to match
with texts is another vector: CLIP's normalised class token, SigLIP's attention pooling, either before the projection.

Shapes: B batch, D feature width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_cl.adapters.bases import family_of

_LEAVE_OUT = "Leave pool out of the head."


class PooledOutput:
    """Keeps the pooled output of a vision tower's last forward, by a hook on the tower, until it is taken."""

    def __init__(self, tower: nn.Module) -> None:
        self._rows: Tensor | None = None
        self._handle = tower.register_forward_hook(self._keep)  # a bound method: a copy of the model gets a hook of its own

    def _keep(self, tower: nn.Module, inputs: Any, output: Any) -> None:
        self._rows = output.pooler_output  # [B, D]

    def take(self) -> Tensor | None:
        """[B, D] of the last forward, handed out once, so that no graph outlives its step; None where there was none since."""
        rows, self._rows = self._rows, None
        return rows

    def remove(self) -> None:
        """Take the hook off the tower."""
        self._handle.remove()


def check_pool(head: dict[str, Any] | None, model: nn.Module) -> None:
    """Raise ValueError for a head that reads the pooled output of a base whose classifier is fed otherwise."""
    if (head or {}).get("pool") is None:
        return
    family = family_of(model)
    if family not in ("clip_vision", "siglip_vision"):
        reads_names = (head or {}).get("text", "none") != "none"
        way_out = "The head reads class names too: take a CLIP or SigLIP model, such as `demo_clip`." if reads_names else _LEAVE_OUT
        raise ValueError(
            f"pool: pooled is for the vision tower of a CLIP or SigLIP model of transformers; {type(model).__name__} (base family "
            f"{family!r}) feeds its classifier what it pools itself. {way_out}"
        )
    if family == "siglip_vision" and "head" not in dict(model.get_submodule("vision_model").named_children()):
        raise ValueError("pool: pooled needs a SigLIP vision tower with its attention pooling, and this one has none (vision_use_head).")
