"""What hf_cl relies on in peft, and the silent traps around it."""

from __future__ import annotations

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
from processes import interpreter
from tiny import ADAPTERS, NAMES, base, images

from hf_cl._peft import BaseTuner, bypassed, register_type


def test_a_foreign_type_of_the_same_name_is_refused():
    class Tuner(BaseTuner):
        prefix = "one_prompt_"

    with pytest.raises(RuntimeError, match="already has a type ONE_PROMPT"):
        register_type("ONE_PROMPT", PeftConfig, Tuner)


def test_the_enum_member_behaves_like_peft_s_own():
    member = PeftType("ONE_PROMPT")
    assert member is PeftType.ONE_PROMPT and member in list(PeftType)
    assert member.value == member.name == str.__str__(member) == "ONE_PROMPT"


UNKNOWN = """
import sys
import hf_cl_command, hf_cl
assert "peft" not in sys.modules
from peft import PeftConfig
try:
    raise AssertionError(PeftConfig.from_pretrained(sys.argv[1]))
except KeyError as error:
    assert error.args == ("ONE_PROMPT",)
assert hf_cl.OnePromptConfig is type(PeftConfig.from_pretrained(sys.argv[1]))
"""


def test_without_the_types_peft_names_the_unknown_one(tmp_path):
    """The command leaves them out, and they come when one is asked for."""
    get_peft_model(base("vit"), ADAPTERS["ONE_PROMPT"](class_names=["a"])).save_pretrained(tmp_path)
    done = interpreter("-c", UNKNOWN, tmp_path)
    assert done.status == 0, done.output[-2000:]


def test_bypassing_leaves_requires_grad_alone():
    model = get_peft_model(base("vit"), ADAPTERS["ONE_PROMPT"](class_names=NAMES[:3])).eval()
    plain = base("vit")(images()).logits
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("modules_to_save" in name)  # a phase that trains the head alone
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with bypassed(model):
        assert torch.equal(model(images()).logits, plain)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before
    with model.disable_adapter():
        pass
    after = {name: p.requires_grad for name, p in model.named_parameters()}
    assert after != before, "peft's own switch no longer thaws frozen prompts: bypassed() may not be needed any more"


def test_an_adapter_of_another_depth_is_refused_where_peft_would_warn(tmp_path):
    get_peft_model(base("vit"), ADAPTERS["ONE_PROMPT"](class_names=["a"])).save_pretrained(tmp_path)
    from transformers import ViTConfig, ViTForImageClassification

    shallow = ViTForImageClassification(
        ViTConfig(hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64, image_size=32)
    )
    with pytest.raises(ValueError, match=r"6 layers.*this base is vit \(width 32, 5 layers\)"):
        PeftModel.from_pretrained(shallow, tmp_path)


IMPORT = """
import socket, sys
def refuse(*a, **k): raise AssertionError('network at import')
socket.socket.connect = refuse
import torch, transformers, peft, warnings
warnings.simplefilter('error')
import hf_cl
assert 'datasets' not in sys.modules and 'matplotlib' not in sys.modules
assert set(sys.argv[1:]) <= {member.value for member in peft.PeftType}
import hf_cl.backbones, hf_cl.methods
assert not torch.cuda.is_initialized()
"""


def test_the_import_registers_every_type_and_is_quiet_and_offline():
    done = interpreter("-c", IMPORT, *ADAPTERS)
    assert done.status == 0 and done.output == "", done.output[-2000:]
