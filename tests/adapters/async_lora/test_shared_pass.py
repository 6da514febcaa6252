"""Roles without LoRA share one pass through the frozen blocks: the same bits, fewer blocks run."""

from __future__ import annotations

import gc
import pickle

import pytest
import torch
from async_lora_students import move, unfrozen_student
from tiny import CLASSIFIERS, images

from hf_cl.adapters.async_lora.unfreezing import place_of_blocks

BLOCKS = 6


def ready(family: str = "vit", **kwargs):
    """A student after session 0 whose teacher differs from it and from the pre-trained model."""
    model = unfrozen_student(family, **kwargs)
    tuner = model.base_model
    tuner.update_teacher()
    tuner.keep("base", "base_teacher", clone=True)
    move(model, ("async_lora", "modules_to_save"), seed=2)
    tuner.update_teacher()
    return model


def count_blocks(model) -> list[int]:
    ran: list[int] = []
    for number, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda module, args, output, number=number: ran.append(number))
    return ran


def blocks_of(model):
    parent, name = place_of_blocks(model.get_base_model())
    return getattr(parent, name)


def run(model, role: str, pixels, sharing: bool = True):
    with model.base_model.role(role, pixels if sharing else None):
        return model(pixels).logits


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_three_roles_run_the_frozen_blocks_once_and_give_the_same_bits(family):
    model = ready(family)
    roles, pixels = ("base_teacher", "pretrained", "teacher", "base"), images()
    alone = {role: run(model, role, pixels, sharing=False) for role in roles}
    before, ran = list(blocks_of(model)), count_blocks(model)
    for role in roles:
        assert torch.equal(run(model, role, pixels), alone[role]), role
    lora_off = [*range(BLOCKS), 4, 5, 4, 5]  # unfreeze_from=4: the second and third role start there
    assert ran == [*lora_off, *range(BLOCKS)]  # LoRA is on in `base`: nothing of it is shared
    assert list(blocks_of(model)) == before


def test_without_copies_the_roles_differ_in_the_head_alone():
    model = unfrozen_student(unfreeze_from=5)
    model.base_model.peft_config["default"].unfreeze_from = None
    model.base_model.peft_config["default"].unfrozen = False
    ran, pixels = count_blocks(model), images()
    assert torch.equal(run(model, "pretrained", pixels), run(model, "pretrained", pixels))
    assert ran == [*range(BLOCKS)]


@pytest.mark.filterwarnings("ignore:unfreeze_from=-1")
def test_nothing_is_shared_where_everything_is_unfrozen():
    model = ready(unfreeze_from=-1)
    ran, pixels = count_blocks(model), images()
    for role in ("base_teacher", "pretrained"):
        run(model, role, pixels)
    assert ran == [*range(BLOCKS)] * 2


def test_other_images_written_images_and_other_precision_run_again():
    model = ready()
    pixels, ran = images(), count_blocks(model)
    changes = [lambda: None, lambda: pixels.add_(1.0), lambda: None]
    for change, blocks in zip(changes, (BLOCKS, BLOCKS, 2), strict=True):
        change()
        ran.clear()
        assert torch.equal(run(model, "pretrained", pixels), run(model, "pretrained", pixels.clone(), sharing=False))
        assert len(ran) == blocks + BLOCKS
    ran.clear()
    with torch.autocast("cpu", torch.bfloat16):
        run(model, "pretrained", pixels)
    run(model, "pretrained", images(seed=6))
    with torch.inference_mode():
        run(model, "pretrained", images(seed=6))
    assert len(ran) == 3 * BLOCKS


def test_nothing_is_held_when_the_images_are_gone():
    model = ready()
    states = model.base_model.states["default"]
    pixels = images()
    run(model, "pretrained", pixels)
    assert states.shared._output is not None
    assert pickle.loads(pickle.dumps(states)).shared._output is None
    del pixels
    gc.collect()
    assert states.shared._output is None


def test_an_error_leaves_the_blocks_in_place():
    model, pixels = ready(), images()
    before = list(blocks_of(model))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), model.base_model.role("pretrained", pixels):
            model(pixels)
            raise ZeroDivisionError
        assert list(blocks_of(model)) == before
    assert not before[3]._forward_hooks
