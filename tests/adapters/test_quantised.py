"""Quantised bases: types that read weights refuse them by a sentence, the others run. The layers stand in for those of the libraries."""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import get_peft_model
from torch import nn

from hf_cl.adapters import AsyncLoraConfig, CPEClipConfig, GladConfig, OnePromptConfig, SaraConfig

NAMES = ["cat", "dog"]


class Int8Linear(nn.Linear):
    """As bitsandbytes: a Linear whose weight is int8 rows and a scale for each."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None)
        self.bias = linear.bias
        scale = linear.weight.detach().abs().amax(dim=1, keepdim=True) / 127  # [out, 1]
        self.register_buffer("scale", scale)
        self.weight = nn.Parameter((linear.weight.detach() / scale).round().to(torch.int8), requires_grad=False)  # [out, in]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


class PackedTensor(torch.Tensor):
    """As torchao: says that it is floating, and is none that may be written into."""


class QLinear(nn.Linear):
    """As quanto, before its weights are frozen: the weight is plain, the forward quantises it."""


class Packed(nn.Module):
    """As HQQ: no Linear at all."""


Int8Linear.__module__ = "bitsandbytes.nn.modules"
PackedTensor.__module__ = "torchao.dtypes.affine_quantized_tensor"
QLinear.__module__ = "optimum.quanto.nn.qlinear"
Packed.__module__ = "hqq.core.quantize"


def torchao_linear():
    linear = nn.Linear(8, 8)
    linear.weight = nn.Parameter(torch.zeros(8, 8).as_subclass(PackedTensor), requires_grad=False)
    return linear


LAYERS = {
    "bitsandbytes": lambda: Int8Linear(nn.Linear(8, 8)),
    "torchao": torchao_linear,
    "optimum": lambda: QLinear(8, 8),
    "hqq": Packed,
}


@pytest.mark.parametrize("library", LAYERS)
def test_sara_names_what_has_quantised_a_layer(library):
    model = nn.Sequential(LAYERS[library](), nn.Linear(8, 8))
    with pytest.raises(ValueError, match=rf"SARA reads and writes the weights of its layers, and '0' \(\w+\) is quantised: {library}\."):
        get_peft_model(model, SaraConfig(target_modules=["0", "1"], density=0.1))
    get_peft_model(model, SaraConfig(target_modules=["1"], density=0.1))  # a layer that is not


@pytest.mark.parametrize("library", LAYERS)
def test_async_lora_names_what_has_quantised_a_layer(library):
    base = tiny.base("vit")
    base.set_submodule("vit.layers.1.attention.q_proj", LAYERS[library]())
    with pytest.raises(ValueError, match=rf"ASYNC_LORA reads and writes the weights of its layers, .* is quantised: {library}\."):
        get_peft_model(base, AsyncLoraConfig(r=2, class_names=NAMES, head={"type": "linear"}))


@pytest.mark.parametrize(
    ("kind", "family", "settings"),
    [(GladConfig, "vit", {"lora_dropout": 0.0}), (OnePromptConfig, "vit", {}), (CPEClipConfig, "clip_vision", {"towers": "vision"})],
    ids=["GLAD", "ONE_PROMPT", "CPE_CLIP"],
)
def test_types_that_read_no_weights_train_on_a_quantised_base(kind, family, settings):
    base = tiny.base(family)
    for name, module in list(base.named_modules()):
        if isinstance(module, nn.Linear) and ".layers." in name:
            base.set_submodule(name, Int8Linear(module))
    assert any(isinstance(module, Int8Linear) for module in base.modules())
    model = get_peft_model(base, kind(class_names=NAMES, **settings))
    logits = model(pixel_values=torch.randn(2, 3, tiny.SIDE, tiny.SIDE)).logits  # [2, 2]
    logits.square().sum().backward()
    trained = [p for n, p in model.named_parameters() if p.requires_grad and model.base_model.prefix in n]
    assert trained and any(p.grad is not None and bool((p.grad != 0).any()) for p in trained)
    assert all(p.dtype == torch.int8 for n, p in model.named_parameters() if n.endswith("weight") and not p.is_floating_point())
