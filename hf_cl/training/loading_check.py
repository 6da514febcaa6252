"""After session 0 its adapter is loaded once, so that one that nobody could load is refused while little is lost."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path

import torch
from peft import PeftModel
from torch import nn


class BareBase:
    """The base as whoever loads an adapter has it: without one. It shares the memory of the run's base, and stays where that was: where
    training moves its base to a GPU, the host's memory keeps it until session 0 has ended.

    Args:
        backbone: before an adapter is injected.
    """

    def __init__(self, backbone: nn.Module) -> None:
        shared: dict[int, object] = {id(tensor): tensor for tensor in (*backbone.parameters(), *backbone.buffers())}
        for parameter in backbone.parameters():
            if type(parameter) is nn.Parameter:  # quantised weights have classes of their own
                shared[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
        self._base = deepcopy(backbone, shared)

    def refusal(self, folder: Path) -> str | None:
        """Why the adapter in `folder`, just written, cannot be loaded; None where it can. One that cannot is removed.

        Loading is stock peft's, with the checks of `HeadedTuner.inject_adapter`: names, shapes and kinds of the file's tensors are those
        that its config describes. It injects the adapter, so it can be asked once.
        """
        try:
            on_gpus = {parameter.device for parameter in self._base.parameters() if parameter.device.type == "cuda"}
            with torch.random.fork_rng(on_gpus):
                PeftModel.from_pretrained(self._base, str(folder), torch_device="cpu")  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            shutil.rmtree(folder)
            return (
                f"The adapter of session 0 cannot be loaded again, so training stops here: {error} Shapes must follow from the settings of "
                "adapter and head and from the class names alone; what grows with the data belongs in a non-persistent buffer, which "
                "checkpoints hold and adapters do not."
            )
        return None
