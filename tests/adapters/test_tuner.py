"""What the base class of all tuners spares them."""

from torch import nn

from hf_cl._peft import TunerLayer
from hf_cl.adapters.tuner import HeadedTuner


class Wrapped(TunerLayer):
    adapter_layer_names = ()


class Tuner(HeadedTuner):
    def _create_and_replace(self, *args, **kwargs):
        raise AssertionError("nothing is injected here")


def test_a_wrapped_block_without_a_weight_comes_back_at_unload():
    block = nn.Sequential(nn.Linear(2, 2))
    parent = nn.ModuleDict({"mlp": Wrapped(block, "default")})
    Tuner._replace_module(Tuner.__new__(Tuner), parent, "mlp", block, parent["mlp"])
    assert parent["mlp"] is block
