"""What hf_cl relies on in peft, and the silent traps around it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model
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


def test_without_the_import_peft_names_the_unknown_type(tmp_path):
    get_peft_model(base("vit"), ADAPTERS["ONE_PROMPT"](class_names=["a"])).save_pretrained(tmp_path)
    script = f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode != 0 and "KeyError: 'ONE_PROMPT'" in done.stderr


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


@pytest.mark.parametrize("module", ["hf_cl", "hf_cl.backbones", "hf_cl.methods"])
def test_the_import_is_quiet_and_offline(module):
    script = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network at import')\n"
        "socket.socket.connect = refuse\n"
        "import torch, transformers, peft, warnings\n"
        "warnings.simplefilter('error')\n"
        f"import {module}\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'datasets' not in sys.modules and 'matplotlib' not in sys.modules or {module!r} != 'hf_cl'\n"
    ).replace("{module!r}", repr(module))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
