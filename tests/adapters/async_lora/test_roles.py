"""One backbone in several roles."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from async_lora_students import move, student, unfrozen_student
from peft import get_peft_model_state_dict
from tiny import CLASSIFIERS, NAMES, base, images

ROLES = ("teacher", "base", "base_teacher", "pretrained")


def logits(model, role):
    with model.base_model.role(role):
        return model(images()).logits


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_what_each_role_computes(family):
    model = student(family)
    tuner = model.base_model
    pretrained = logits(model, "pretrained")
    assert torch.equal(logits(model, "teacher"), pretrained)  # nothing is unfrozen yet: LoRA is off in both
    tuner.unfreeze()
    assert torch.equal(logits(model, "teacher"), pretrained)
    move(model)
    tuner.update_teacher()
    teacher, now = logits(model, "teacher"), model(images()).logits
    assert not torch.equal(teacher, pretrained)
    tuner.keep("base", "base_teacher", clone=True)
    assert torch.equal(logits(model, "base"), now) and torch.equal(logits(model, "base_teacher"), teacher)
    move(model, ("async_lora", "modules_to_save"), seed=2)
    tuner.update_teacher()
    tuner.grow("default", NAMES[3:5])
    assert torch.equal(logits(model, "base"), now)  # with the rows it had
    assert torch.equal(logits(model, "pretrained"), logits(model, "pretrained"))
    assert not torch.equal(logits(model, "teacher")[:, :3], teacher) and model(images()).logits.shape == (4, 5)


def test_pretrained_is_the_adapter_off():
    model = unfrozen_student()
    hidden = []
    model.get_base_model().vit.register_forward_hook(lambda module, args, output: hidden.append(output.last_hidden_state))
    logits(model, "pretrained")
    with model.disable_adapter():
        model(images())
    assert torch.equal(*hidden)


def test_teacher_is_the_moving_average_in_closed_form():
    """Against a constant student s, the teacher after n updates is m^n t + (1 - m^n) s."""
    model = student(ema_decay=0.9)
    tuner = model.base_model
    tuner.unfreeze()
    start = {name: tensor.clone() for name, tensor in tuner.role_tensors("teacher").items()}
    move(model)
    for _ in range(5):
        tuner.update_teacher()
    parameters = dict(tuner.model.named_parameters())
    for name, tensor in tuner.role_tensors("teacher").items():
        torch.testing.assert_close(tensor, 0.9**5 * start[name] + (1 - 0.9**5) * parameters[name], atol=1e-6, rtol=0)


def test_the_teacher_is_float32_on_a_half_precision_base():
    from peft import get_peft_model

    from hf_cl.adapters import AsyncLoraConfig

    config = AsyncLoraConfig(unfreeze_from=-1, class_names=NAMES[:3], head={"type": "linear"})
    for family in ("vit", "siglip_vision"):
        model = get_peft_model(base(family).bfloat16(), copy.deepcopy(config), autocast_adapter_dtype=family == "vit").eval()
        tuner = model.base_model
        tuner.unfreeze()
        assert {t.dtype for t in tuner.role_tensors("teacher").values()} == {torch.float32}
        copies = {p.dtype for name, p in model.named_parameters() if "async_lora_copy" in name}
        assert copies == {torch.float32 if family == "vit" else torch.bfloat16}
        tuner.update_teacher()
        found = model(images().bfloat16()).logits
        found.float().sum().backward()
        assert found.isfinite().all()
        if family == "vit":  # copies in float32 compute what the base computes
            torch.testing.assert_close(found.float(), logits(model, "teacher").float(), atol=0.05, rtol=0)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_leaves_everything_as_it_was(role):
    model = unfrozen_student()
    tuner = model.base_model
    tuner.keep("base", "base_teacher")
    before = model(images()).logits
    identities = {name: id(p) for name, p in model.named_parameters()}
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    random = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), tuner.role(role):
        assert not model(images()).logits.requires_grad
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), random)
    assert {name: id(p) for name, p in model.named_parameters()} == identities
    assert {name for name, p in model.named_parameters() if p.requires_grad} == trainable
    assert torch.equal(model(images()).logits, before)


def test_a_role_inside_an_open_forward_does_not_disturb_its_backward():
    model = unfrozen_student()
    reference = copy.deepcopy(model)
    reference(images()).logits.sum().backward()
    open_forward = model(images()).logits
    for role in ("teacher", "pretrained"):
        logits(model, role)
    open_forward.sum().backward()
    for (name, p), (_, q) in zip(model.named_parameters(), reference.named_parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        assert p.grad is None or torch.equal(p.grad, q.grad), name


def test_roles_can_be_nested():
    model = unfrozen_student()
    want = logits(model, "teacher")
    with model.base_model.role("teacher"):
        logits(model, "pretrained")
        assert torch.equal(model(images()).logits, want)


def test_states_are_neither_parameters_nor_in_a_file():
    model = unfrozen_student()
    tuner = model.base_model
    names, state = [name for name, _ in model.named_parameters()], list(model.state_dict())
    saved = list(get_peft_model_state_dict(model))
    tuner.update_teacher()
    tuner.keep("base", "base_teacher", clone=True)
    assert [name for name, _ in model.named_parameters()] == names
    assert list(model.state_dict()) == state and list(get_peft_model_state_dict(model)) == saved
    assert not list(tuner.named_buffers(recurse=False))


def resident_bytes(model) -> int:
    """Weights, copies, moving average and kept states; what shares its storage counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    for states in model.base_model.states.values():
        for state in (states.pretrained, states.teacher, states.base, states.base_teacher):
            tensors += (state or {}).values()
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def size(model, *marks) -> int:
    return sum(p.numel() * 4 for name, p in model.named_parameters() if any(mark in name for mark in marks))


def test_one_backbone_in_memory():
    """One backbone, twice the copies, LoRA; from the end of session 0 on, LoRA and rows once more."""
    model = unfrozen_student()
    tuner = model.base_model
    plain = sum(t.numel() * t.element_size() for t in [*base("vit").parameters(), *base("vit").buffers()])
    copies, lora = size(model, "async_lora_copy"), size(model, "async_lora_A", "async_lora_B")
    rows = size(model, "modules_to_save")
    assert resident_bytes(model) == plain + 2 * copies + lora + rows
    tuner.keep("base", "base_teacher")
    assert resident_bytes(model) == plain + 2 * copies + 2 * lora + 2 * rows
    tuner.keep("base", "base_teacher", clone=True)
    assert resident_bytes(model) == plain + 4 * copies + 2 * lora + 2 * rows


@pytest.mark.parametrize("clone", [False, True])
def test_training_state_goes_round(clone):
    """As a resumed run does it: a fresh adapter, the adapter's tensors, then the training state."""
    model = unfrozen_student()
    tuner = model.base_model
    tuner.update_teacher()
    tuner.keep("base", "base_teacher", clone=clone)
    move(model, ("async_lora_A", "modules_to_save", *(["async_lora_copy"] if clone else [])), seed=3)
    state = tuner.training_state()
    fresh = student()
    fresh.load_state_dict(model.state_dict())
    fresh.base_model.load_training_state(pickle.loads(pickle.dumps(state)))
    for role in ROLES:
        assert torch.equal(logits(fresh, role), logits(model, role)), role
    assert torch.equal(fresh(images()).logits, model(images()).logits)
    assert resident_bytes(fresh) == resident_bytes(model)
    shared = sum(t.numel() for t in state["states"]["base"].values())
    assert (shared == sum(t.numel() for t in tuner.role_tensors("base").values())) == clone  # no file holds a tensor twice


def test_deepcopy_keeps_roles_apart():
    model = unfrozen_student()
    twin = copy.deepcopy(model)
    want = logits(model, "teacher")
    move(twin)
    twin.base_model.update_teacher()
    assert torch.equal(logits(model, "teacher"), want) and not torch.equal(logits(twin, "teacher"), want)


@pytest.mark.parametrize(
    ("role", "message"),
    [("techer", "Did you mean 'teacher'"), ("base", "begins when session 0 ends"), ("base_teacher", "begins when session 0 ends")],
)
def test_roles_without_a_state(role, message):
    with pytest.raises(ValueError, match=message), student().base_model.role(role):
        pass


def test_a_loaded_adapter_has_no_teacher_until_it_is_unfrozen_again(tmp_path):
    from peft import PeftModel

    unfrozen_student().save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(base("vit"), tmp_path)
    with pytest.raises(ValueError, match=r"unfreeze\(\) starts one"), model.base_model.role("teacher"):
        pass
    before = model(images()).logits
    model.base_model.unfreeze()
    assert torch.equal(model(images()).logits, before)
    assert not torch.equal(logits(model, "teacher"), before)  # without LoRA


def test_roles_need_unmerged_weights():
    model = unfrozen_student(names=None)
    model.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"), model.base_model.role("teacher"):
        pass
