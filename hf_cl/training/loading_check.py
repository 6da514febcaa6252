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
        # other classes than Parameter are those of quantised weights, which are frozen on every base
        own = [parameter for parameter in backbone.parameters() if type(parameter) is nn.Parameter]
        self._parameters = [(parameter, nn.Parameter(parameter.detach(), parameter.requires_grad)) for parameter in own]
        shared = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
        self._base = deepcopy(backbone, shared | {id(parameter): copied for parameter, copied in self._parameters})

    def refusal(self, folder: Path, device: torch.device) -> str | None:
        """Why the adapter in `folder` cannot be loaded; None where it can. One that cannot is removed.

        Loading is stock peft's, with the checks of `HeadedTuner.inject_adapter`: names, shapes and kinds of the file's tensors are those
        that its config describes.

        Args:
            folder: an adapter of this base, just written.
            device: where the base has been moved to since.
        """
        for own, copied in self._parameters:
            copied.data = own.data
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
