"""What a forward pass keeps for its backward pass, beside what stock LoRA keeps on the same base."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import ADAPTERS, ON_WEIGHTS, base, homes, images
from torch import nn

TARGETS = ["q_proj", "k_proj", "v_proj"]
AT_MOST = {
    **dict.fromkeys(("ASYNC_LORA", "PROMPT_POOL", "GLAD"), 1.0),
    **dict.fromkeys(("HYPER_LORA", "SARA", "COMPANDER", "MASK_TUNING", "DST"), 1.05),
    "LOW_RANK": 1.1,
    "ONE_PROMPT": 0.9,
    "SESSION_NORM": 1.1,  # scale and shift of each image apart from the norm
    "CPE_CLIP": 1.3,
}
"""peft type -> the largest share of stock LoRA's bytes that it may keep. CPE_CLIP brings tokens of its own: up to 10 beside 17 here.
LOW_RANK has ranks of 8 and 10 here, LoRA of 4."""


def saved_bytes(model: nn.Module) -> int:
    pixels = images()
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), pixels)}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage  # held, so that its address is not given away again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.train()(pixels)
    total = sum(storage.nbytes() for storage in found.values())
    del out
    return total


def lora(family: str, targets: list[str]) -> nn.Module:
    return get_peft_model(base(family), LoraConfig(r=4, lora_alpha=4, target_modules=targets))


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_keeps_no_more_than_lora(kind):
    family = homes(kind)[0]
    settings = {"unfreeze_from": None, "unfrozen": False} if kind == "ASYNC_LORA" else {}
    mine = get_peft_model(base(family), ADAPTERS[kind](**settings))
    targets = [*TARGETS, "o_proj", *(() if kind == "MASK_TUNING" else ("fc1", "fc2"))] if kind in ON_WEIGHTS else TARGETS
    share = saved_bytes(mine) / saved_bytes(lora(family, targets))
    assert AT_MOST[kind] - 0.3 < share <= AT_MOST[kind]


@pytest.mark.parametrize("role", ["teacher", "base", "base_teacher", "pretrained"])
def test_frozen_states_keep_nothing(role):
    model = get_peft_model(base("vit"), ADAPTERS["ASYNC_LORA"]())
    model.base_model.unfreeze()
    model.base_model.keep("base", "base_teacher")
    with model.base_model.role(role, images()):
        assert saved_bytes(model) == 0


def test_the_counter_counts():
    """A frozen model keeps nothing; one with all weights training keeps at least the input of every linear layer."""
    model = base("vit")
    inputs = sum(4 * m.in_features for m in model.modules() if isinstance(m, nn.Linear))
    assert saved_bytes(model) > 4 * 16 * inputs
    assert saved_bytes(model.requires_grad_(False)) == 0
