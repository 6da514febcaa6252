"""What the embedding and the blocks of a vision tower give, for losses that compare two states of one model.

Shapes: B batch, N tokens, D width of the tower.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hf_cl.adapters.vision_blocks import stages

NAME = "block_"


class BlockOutputs:
    """Keeps the hidden states [B, N, D] of a tower's last forward, by hooks on embedding and blocks, until they are taken.

    Only while they are `wanted`, in train mode or under a teacher: predictions keep nothing. What gradient checkpointing runs again in the
    backward pass comes after the last block and is not kept.

    Args:
        model: a tower that hf_cl does not know gives nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [model.get_submodule(name) for name in stages(model)]
        self.names = tuple(f"{NAME}{number}" for number in range(len(modules)))
        self.wanted = self.teaches = False
        self._kept: list[Tensor] = []
        self._open = False
        # bound methods: a copy of the model gets its own
        hooks = [self._begin, *[self._keep] * (len(modules) - 1)]
        self._handles = [module.register_forward_hook(hook) for module, hook in zip(modules, hooks, strict=False)]

    def _begin(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._kept, self._open = [], self.wanted and (module.training or self.teaches)
        self._keep(module, inputs, output)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._open:
            self._kept.append(output if isinstance(output, Tensor) else output[0])  # [B, N, D]
            self._open = len(self._kept) < len(self.names)

    def take(self) -> dict[str, Tensor]:
        """`block_0`, what the embedding gave, to `block_K`; handed out once, so that no graph outlives its step."""
        kept, self._kept = self._kept, []
        return dict(zip(self.names, kept, strict=True)) if kept else {}

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
