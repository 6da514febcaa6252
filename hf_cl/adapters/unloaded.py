"""What stands at the classifier's place once an adapter has been taken out: a stock layer, or a head that no file of transformers holds.

Shapes: B batch, C classes, D feature width.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_cl.contracts import Head

LINEAR_HEAD = "--head '{type: gaussian, covariance: shared}'"
"""A head as good as any on a backbone that stands still, and a linear layer."""


class CalibratedHead(Head):
    """A head whose logits are divided by a temperature in eval mode, as its wrapper did.

    Args:
        head: as it is.
        temperature: of the adapter's config.
    """

    def __init__(self, head: Head, temperature: float) -> None:
        super().__init__()
        self.head, self.temperature, self.num_classes = head, temperature, head.num_classes

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        logits = self.head(features)
        return logits if self.training else logits / self.temperature

    def embed(self, features: Tensor) -> Tensor:
        return self.head.embed(features)

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.head.probabilities(logits)


@torch.no_grad()
def stock_linear(head: Head, temperature: float | None = None) -> nn.Linear | None:
    """The head as transformers' classes have their classifier, a linear layer with a bias, over the temperature; None where it is none."""
    linear = head.as_linear()
    if linear is None:
        return None
    if linear.bias is None:
        linear.register_parameter("bias", nn.Parameter(linear.weight.new_zeros(linear.out_features)))  # [C]
    if temperature is not None:
        linear = deepcopy(linear)  # the head may have handed out its own layer
        linear.weight.div_(temperature)
        linear.bias.div_(temperature)
    return linear


def settle_heads(model: nn.Module, temperature: float | None = None) -> None:
    """Put stock layers in the place of linear heads, in the base's dtype. Under another head the base refuses `save_pretrained`: the file
    would come back with a random classifier, and only a load report would say so. The temperature goes along."""
    heads = [(path, module) for path, module in model.named_modules() if isinstance(module, Head)]
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())  # quantised weights are integers
    for path, head in heads:  # float32 within the adapter; what is left is a plain model of one dtype
        linear = stock_linear(head, temperature)
        if linear is not None:
            model.set_submodule(path, linear.to(dtype))
            continue
        head.to(dtype)
        if temperature is not None:
            model.set_submodule(path, CalibratedHead(head, temperature).train(head.training))
        if isinstance(model, PreTrainedModel):
            model.save_pretrained = partial(_refuse_to_save, model, path)  # an attribute of this one model


def _refuse_to_save(model: PreTrainedModel, path: str, *args: Any, **kwargs: Any) -> None:
    head = model.get_submodule(path)
    if not isinstance(head, Head):  # somebody has put a classifier of their own there
        return type(model).save_pretrained(model, *args, **kwargs)
    kind = type(head.head if isinstance(head, CalibratedHead) else head).__name__
    raise ValueError(
        f"The classifier of this {type(model).__name__} is hf_cl's {kind}, for which transformers has no layer: the saved "
        "model would come back with a random classifier. Save the adapter before it is merged (`PeftModel.save_pretrained`), write ONNX "
        f"(`hf-cl export ADAPTER DIR --form onnx`), or train with {LINEAR_HEAD}, which is a linear layer."
    )
