"""What embedding and blocks give is handed out while it is wanted, once, and nothing of it stays."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from tiny import CLASSIFIERS, base, images
from torch import nn

from hf_cl.adapters import LowRankConfig
from hf_cl.adapters.vision_blocks import stages


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_hidden_states_of_the_tower(family):
    model = get_peft_model(base(family), LowRankConfig())
    tuner = model.base_model
    assert tuner.extras == tuple(f"block_{k}" for k in range(7))
    tuner.keep_blocks(True)
    model.train()(images())
    found = tuner.take_extras()
    want = model.eval()(images(), output_hidden_states=True).hidden_states
    assert [*found] == [*tuner.extras] and len(want) == 7
    for ours, theirs in zip(found.values(), want, strict=True):
        assert torch.equal(ours, theirs)
    assert tuner.take_extras() == {}, "eval mode keeps nothing"


def test_they_are_kept_of_the_student_and_of_the_teacher_alone():
    model = get_peft_model(base("vit"), LowRankConfig()).train()
    tuner = model.base_model
    model(images())
    assert tuner.take_extras() == {}, "nobody has asked"
    tuner.keep_blocks(True)
    model(images())
    student = tuner.take_extras()
    model.eval()
    with torch.no_grad(), tuner.role("pretrained"):
        model(images())
    teacher = tuner.take_extras()
    assert torch.equal(student["block_0"], teacher["block_0"]) and not torch.equal(student["block_6"], teacher["block_6"])
    plain = base("vit")(images(), output_hidden_states=True).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(teacher.values(), plain, strict=True))


def test_what_checkpointing_runs_again_is_not_kept():
    plain = base("vit")
    plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    model = get_peft_model(plain, LowRankConfig()).train()
    tuner = model.base_model
    tuner.keep_blocks(True)
    model(images())
    sum(block.square().mean() for block in tuner.take_extras().values()).backward()
    assert tuner.take_extras() == {}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    copy.deepcopy(model)


def test_unloading_takes_the_hooks_off_and_unknown_towers_have_none():
    model = get_peft_model(base("vit"), LowRankConfig())
    unloaded = model.unload()
    assert not any(module._forward_hooks for module in unloaded.vit.layers) and not unloaded.vit.embeddings._forward_hooks
    assert stages(nn.Linear(1, 1)) == [] and stages(base("timm")) == []
