"""The patch tokens of a vision tower as a map: what heads read that look at places of a picture.

Shapes: B batch, N tokens, H rows and W columns of patches, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.adapters.bases import PATCH_TOKENS, family_of
from hf_cl.heads import reads_tokens


class TokenMap:
    """Keeps the patch tokens of a vision tower's last forward, by a hook on the tower, until they are taken.

    They are those of the last layer behind the final norm, row by row, without class, distillation or prompt tokens. Under adapters that
    look at the image twice, what the last of the two passes gave is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        place = PATCH_TOKENS[family_of(model)]
        tower: Any = model.get_submodule(place.tower)
        self._first, self._patch = place.first, tower.config.patch_size
        self._norm = place.norm
        self._map: Tensor | None = None
        self._handle = tower.register_forward_hook(self._keep, with_kwargs=True)  # a bound method: a copy of the model gets its own

    def _keep(self, tower: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any) -> None:
        pixels = inputs[0] if inputs else named["pixel_values"]  # [B, 3, S, S']
        height, width = pixels.shape[-2] // self._patch, pixels.shape[-1] // self._patch
        tokens = output[0][:, self._first : self._first + height * width]  # [B, H W, D]
        if self._norm is not None:
            tokens = tower.get_submodule(self._norm)(tokens)
        self._map = tokens.unflatten(1, (height, width))  # [B, H, W, D]

    def take(self) -> Tensor | None:
        """[B, H, W, D] of the last forward, handed out once, so that no graph outlives its step; None where there was none since."""
        tokens, self._map = self._map, None
        return tokens

    def remove(self) -> None:
        """Take the hook off the tower."""
        self._handle.remove()


def pooled_map(tokens: Tensor, grid: int | None) -> Tensor:
    """[B, H, W, D] -> [B, grid, grid, D] by means; as it is where `grid` is None.

    Raises ValueError for a grid beyond the map.
    """
    height, width = tokens.shape[1:3]
    if grid is None or (height, width) == (grid, grid):
        return tokens
    if grid > min(height, width):
        raise ValueError(
            f"grid {grid} asks for more places than the picture has patches, {height} x {width}; give the head a smaller grid or none."
        )
    if height % grid == 0 and width % grid == 0:
        return tokens.unflatten(2, (grid, -1)).unflatten(1, (grid, -1)).mean((2, 4))  # [B, g, h, g, w, D]
    return F.adaptive_avg_pool2d(tokens.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)


def check_tokens(head: dict[str, Any] | None, model: nn.Module) -> None:
    """Raise ValueError for a head that reads patch tokens on a base that has none, or none that hf_cl knows."""
    family = family_of(model)
    if head is None or not reads_tokens(head) or family in PATCH_TOKENS:
        return
    raise ValueError(
        f"A {head['type']} head reads the patch tokens of a vision tower, and hf_cl knows none of {type(model).__name__} (base family "
        f"{family!r}). It knows those of {', '.join(PATCH_TOKENS)}: load such a model, or take a head that reads features."
    )
