"""One pass through the blocks that several roles have in common.

Roles without LoRA differ from the first block that is unfrozen on; below it they are all the pre-trained model. The first of them that sees
a batch runs these blocks, the others start from what they gave: with `unfreeze_from=11` of 12 blocks two such roles cost 1.08 passes.

Shapes: B batch, N tokens, D width, S image side.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class SharedPass:
    """The output of the first blocks for one batch of images, held until another batch comes or the images are gone.

    Right as long as the blocks are frozen and in eval mode. Never pickled or copied: it is scratch.
    """

    def __init__(self) -> None:
        self._images: weakref.ref[Tensor] | None = None
        self._key: tuple[Any, ...] = ()
        self._output: Any = None  # [B, N, D]

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return SharedPass, ()

    @contextmanager
    def first_blocks(self, parent: nn.Module, attribute: str, count: int, pixel_values: Tensor) -> Iterator[None]:
        """Inside the block the model runs the first `count` of its blocks only if they have not seen `pixel_values` [B, 3, S, S] yet.

        Args:
            parent, attribute: where the `nn.ModuleList` of the blocks is.
            count: how many blocks are shared.
            pixel_values: the batch that the model is about to see; it is known again by identity.
        """
        blocks: nn.ModuleList = getattr(parent, attribute)
        if count == 0 or pixel_values.is_inference():  # an inference tensor does not tell whether it was written to
            yield
            return
        key = (id(parent), count, pixel_values._version, _autocast_dtype(pixel_values.device))
        if self._images is not None and self._images() is pixel_values and self._key == key:
            setattr(parent, attribute, nn.ModuleList([_Replay(self._output), *blocks[count:]]))
            try:
                yield
            finally:
                setattr(parent, attribute, blocks)
            return
        handle = blocks[count - 1].register_forward_hook(lambda module, args, output: self._keep(pixel_values, key, output))
        try:
            yield
        finally:
            handle.remove()

    def _keep(self, pixel_values: Tensor, key: tuple[Any, ...], output: Any) -> None:
        self._images, self._key, self._output = weakref.ref(pixel_values, self._forget), key, output

    def _forget(self, images: weakref.ref[Tensor]) -> None:
        if images is self._images:
            self._images, self._output = None, None


class _Replay(nn.Module):
    """Stands for blocks that have run already."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.output  # [B, N, D]


def _autocast_dtype(device: torch.device) -> torch.dtype | None:
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
