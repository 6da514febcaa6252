"""A text head on a lone tower is refused by every adapter type: there is nothing that could read the class names."""

from __future__ import annotations

import pytest
import tiny
from peft import get_peft_model


@pytest.mark.parametrize("kind", sorted(tiny.ADAPTERS))
@pytest.mark.parametrize("where", [0, 1])
def test_a_text_head_needs_two_towers(kind, where):
    base = tiny.base(tiny.homes(kind)[where])
    before = [name for name, _ in base.named_modules()]
    with pytest.raises(ValueError, match=rf"needs a base with two towers; {type(base).__name__} has one\. Use head=\{{'type': 'linear'\}}"):
        get_peft_model(base, tiny.ADAPTERS[kind](class_names=["a", "b"], head={"type": "text"}))
    assert [name for name, _ in base.named_modules()] == before, "nothing was injected"


@pytest.mark.parametrize("kind", ["ONE_PROMPT", "ASYNC_LORA", "GLAD"])
def test_any_type_takes_a_text_head_on_two_towers(kind):
    model = get_peft_model(tiny.base("clip"), tiny.ADAPTERS[kind](class_names=["a", "b"], head={"type": "text"}))
    assert model.peft_config["default"].base_signature["text"] == {"hidden_size": 16, "depth": 2}


def test_names_are_looked_at_before_anything_is_injected():
    with pytest.raises(ValueError, match=r"'crab' and 'cra' have the same text"):
        get_peft_model(tiny.base("clip"), tiny.ADAPTERS["ONE_PROMPT"](class_names=["crab", "cra"], head={"type": "text"}))
