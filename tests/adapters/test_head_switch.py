"""The layer inside the head wrapper that hears transformers' `enable_adapters` answers what peft asks of every tuner layer."""

from __future__ import annotations

import pytest
from peft import get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import ADAPTERS, base


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
