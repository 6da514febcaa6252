"""What the base class of all tuners spares them."""

import pytest
import torch
from peft import get_peft_model
from tiny import ADAPTERS, NAMES, OTHER, base, homes, images
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


@pytest.mark.parametrize("kind", ADAPTERS)
def test_where_the_active_adapter_goes_the_other_one_comes(kind):
    """Also where the first layer of the model is the active adapter's alone."""
    model = get_peft_model(base(homes(kind)[0]), ADAPTERS[kind](class_names=NAMES[:3])).eval()
    model.add_adapter("other", OTHER[kind](class_names=NAMES[:2]))
    model.set_adapter("other")
    with torch.no_grad():
        wanted = model(images()).logits
        model.set_adapter("default")
        with pytest.warns(UserWarning, match="Setting active adapter to other"):
            model.delete_adapter("default")
        assert torch.equal(model(images()).logits, wanted)
    assert model.active_adapters == ["other"] and model.config.num_labels == 2
    assert all("other" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
