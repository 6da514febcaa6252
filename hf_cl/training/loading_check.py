"""After session 0 its adapter is loaded once, so that one that nobody could load is refused while little is lost."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn


class BareBase:
    """The base as whoever loads an adapter has it: without one. All its tensors are those of the run's base, so it takes no memory.

    Args:
        backbone: before an adapter is injected.
    """

    def __init__(self, backbone: nn.Module) -> None:
        shared: dict[int, object] = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
        self._base = deepcopy(backbone, shared)
        self._modules = list(zip(backbone.modules(), self._base.modules(), strict=True))

    def refusal(self, folder: Path, device: torch.device) -> str | None:
        """Why the adapter in `folder` cannot be loaded; None where it can. One that cannot is removed.

        Loading is stock peft's, with the checks of `HeadedTuner.inject_adapter`: names, shapes and kinds of the file's tensors are those
        that its config describes.

        Args:
            folder: an adapter of this base, just written.
            device: where the base has been moved to since.
        """
        self._share()
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                PeftModel.from_pretrained(self._base.to(device), str(folder))  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            shutil.rmtree(folder)
            return (
                f"The adapter of session 0 cannot be loaded again, so training stops here: {error} Shapes must follow from the settings of "
                "adapter and head and from the class names alone; what grows with the data belongs in a non-persistent buffer, which "
                "checkpoints hold and adapters do not."
            )
        return None

    def _share(self) -> None:
        """Take the tensors of the run's base as they are now: since it was copied it may have been moved, and frozen."""
        made: dict[int, nn.Parameter] = {}  # tied ones stay tied
        for own, copied in self._modules:
            for name, tensor in own._parameters.items():
                if name in copied._parameters and type(tensor) is nn.Parameter:  # quantised weights have classes of their own
                    copied._parameters[name] = made.setdefault(id(tensor), nn.Parameter(tensor.detach(), tensor.requires_grad))
            copied._buffers.update({name: tensor for name, tensor in own._buffers.items() if name in copied._buffers})
