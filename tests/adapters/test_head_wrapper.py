"""What peft asks of the head's wrapper beyond what the contract suite covers; found by peft's own tests (docs/conformance.md)."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import ADAPTERS, base, images


def test_the_switch_answers_as_a_layer_without_tensors():
    model = get_peft_model(base("vit"), ADAPTERS["GLAD"](class_names=["a", "b", "c"]))
    (switch,) = [m for name, m in model.named_modules() if name.endswith(".switch")]
    assert isinstance(switch, BaseTunerLayer) and not list(switch.parameters())
    assert (switch.in_features, switch.out_features) == (32, 3)
    for name in ("weight", "bias"):
        with pytest.raises(AttributeError):  # peft's own property looks into the layer itself, without end
            getattr(switch, name)
    model.delete_adapter("default")
    assert switch.out_features == 0


@pytest.mark.parametrize("kind", ["GLAD", "SARA", "ASYNC_LORA"])
def test_a_merged_half_precision_model_is_of_one_dtype_and_runs(kind):
    adapted = get_peft_model(base("vit").bfloat16(), ADAPTERS[kind](class_names=["a", "b", "c"])).eval()
    pixels = images().bfloat16()
    with torch.no_grad():
        before = adapted(pixel_values=pixels).logits
        merged = adapted.merge_and_unload()
        after = merged(pixel_values=pixels).logits
    assert before.dtype == torch.float32 and {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(after.float(), before, atol=0.05, rtol=0.05)
