"""What stands at the classifier's place once an adapter has been taken out: a stock layer, or a head that no file of transformers holds.

Shapes: C classes, D feature width.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from hf_cl.contracts import Head

LINEAR_HEAD = "--head '{type: gaussian, covariance: shared}'"
"""A head as good as any on a backbone that stands still, and a linear layer."""


def stock_linear(head: Head) -> nn.Linear | None:
    """The head as transformers' classes have their classifier, a linear layer with a bias; None where it is no linear layer."""
    linear = head.as_linear()
    if linear is not None and linear.bias is None:
        linear.register_parameter("bias", nn.Parameter(linear.weight.new_zeros(linear.out_features)))  # [C]
    return linear


def settle_heads(model: nn.Module) -> None:
    """Put stock layers in the place of linear heads, in the base's dtype. Under another head the base refuses `save_pretrained`: the file
    would come back with a random classifier, and only a load report would say so."""
    heads = [(path, module) for path, module in model.named_modules() if isinstance(module, Head)]
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())  # quantised weights are integers
    for path, head in heads:  # float32 within the adapter; what is left is a plain model of one dtype
        linear = stock_linear(head)
        if linear is not None:
            model.set_submodule(path, linear.to(dtype))
            continue
        head.to(dtype)
        if isinstance(model, PreTrainedModel):
            model.save_pretrained = partial(_refuse_to_save, model, path)  # an attribute of this one model


def _refuse_to_save(model: PreTrainedModel, path: str, *args: Any, **kwargs: Any) -> None:
    head = model.get_submodule(path)
    if not isinstance(head, Head):  # somebody has put a classifier of their own there
        return type(model).save_pretrained(model, *args, **kwargs)
    raise ValueError(
        f"The classifier of this {type(model).__name__} is hf_cl's {type(head).__name__}, for which transformers has no layer: the saved "
        "model would come back with a random classifier. Save the adapter before it is merged (`PeftModel.save_pretrained`), write ONNX "
        f"(`hf-cl export ADAPTER DIR --form onnx`), or train with {LINEAR_HEAD}, which is a linear layer."
    )
