"""Other states of the one backbone: "pretrained" (adapter off), "previous" (end of the last session), and the roles of the adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_cl._peft import bypassed
from hf_cl.adapters.modes import evaluating
from hf_cl.adapters.tuner import HeadedTuner
from hf_cl.backbones import AnyClassifier
from hf_cl.checkpoints.tensors import PEFT_ROOT
from hf_cl.contracts import Outputs


class FrozenStates:
    """Runs the bare classifier in another state, without gradient, in eval mode.

    A snapshot is run through `torch.func.functional_call`: swapping tensors in place breaks the backward pass of a forward that is still
    open, and inside one autocast region it would be undone by the cast cache.

    Roles that the tuner names in `roles` are its own business: `with tuner.role(name, images)` lets the model play them, and by the images
    it knows what another role has computed already.
    """

    def __init__(self, classifier: AnyClassifier, accelerator: Any, tuner: HeadedTuner) -> None:
        self.classifier = classifier
        self.accelerator = accelerator
        self.tuner = tuner
        self.snapshots: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def run(self, role: str, pixel_values: Tensor) -> Outputs:
        """`pixel_values` [B, 3, S, S] through the state `role`.

        Raises ValueError for a role without a state: "previous" in the first session, or a role no adapter has.
        """
        with evaluating(self.classifier), self.accelerator.autocast():
            if role in self.tuner.roles:
                with self.tuner.role(role, pixel_values):
                    return self.classifier.outputs(pixel_values)
            if role == "pretrained":
                with bypassed(self.classifier):
                    return self.classifier.outputs(pixel_values)
            if role not in self.snapshots:
                known = sorted({"pretrained", *self.snapshots, *self.tuner.roles})
                raise ValueError(f"frozen({role!r}): there is no such state; this run has {known}. A loss names in `needs` what it reads.")
            tensors = {f"model.{name.removeprefix(PEFT_ROOT)}": tensor for name, tensor in self.snapshots[role].items()}
            # a module that is registered twice (words, in the base and in the text head) would be swapped twice and put back wrongly; the
            # snapshot names every module's tensors, so nothing has to be tied
            return Outputs(*torch.func.functional_call(self.classifier, tensors, (pixel_values,), tie_weights=False))
