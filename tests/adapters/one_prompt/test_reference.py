"""OnePrompt and the injector against the official code's numbers (float64).

Shapes: B images, N tokens, P rows, D width.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ovor_reference import LAYER_TOKENS, PROMPTS, SEEN, load, prompted_vit, vit
from torch.nn import functional as F

from hf_cl.adapters.prefix import PrefixLayer


class StoredRows(PrefixLayer):
    """A producer of rows per sample, as a prompt pool would be one."""

    def __init__(self, base_layer, key_rows, value_rows):
        super().__init__(base_layer, "default")
        self.key_rows, self.value_rows = key_rows, value_rows

    def rows(self):
        return self.key_rows, self.value_rows  # [B, P, D] each


def test_plain_vit():
    plain = load("vit_plain")
    hidden = vit().vit(plain["pixel_values"]).last_hidden_state
    torch.testing.assert_close(hidden, plain["last_hidden_state"], atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", ["oneprompt", "dual", "l2p", "l2p_deep", "coda"])
def test_rows_per_sample_through_the_injector(method):
    numbers, model = load(method), vit()
    for index, layer in enumerate(model.vit.layers):
        if f"pk_eval.{index}" in numbers:
            layer.attention = StoredRows(layer.attention, numbers[f"pk_eval.{index}"], numbers[f"pv_eval.{index}"])
    hidden = model.vit(load("vit_plain")["pixel_values"]).last_hidden_state
    torch.testing.assert_close(hidden, numbers["last_hidden_state_eval"], atol=1e-10, rtol=0)
    logits = F.linear(hidden[:, 0], numbers["last.weight"], numbers["last.bias"])
    torch.testing.assert_close(logits, numbers["logits_eval"], atol=1e-10, rtol=0)


def test_one_prompt_forward_loss_and_gradients():
    numbers, pixels = load("oneprompt"), load("vit_plain")["pixel_values"]
    model = prompted_vit({name: numbers[f"prompt.{name}"] for name in PROMPTS}, numbers["last.weight"], numbers["last.bias"])
    logits = model(pixels).logits
    torch.testing.assert_close(logits, numbers["logits_eval"], atol=1e-10, rtol=0)
    old, seen = SEEN
    masked = logits[:, :seen].masked_fill(torch.arange(seen) < old, -torch.inf)
    loss = F.cross_entropy(masked, numbers["labels"])
    torch.testing.assert_close(loss, numbers["loss"].reshape(()), atol=1e-12, rtol=0)
    loss.backward()
    for name, index in PROMPTS.items():
        layer = model.base_model.model.vit.layers[index].attention
        gradient = torch.cat([layer.one_prompt_k["default"].grad, layer.one_prompt_v["default"].grad])
        torch.testing.assert_close(gradient, numbers[f"grad.prompt.{name}"], atol=1e-12, rtol=0)
    head = model.base_model.head_wrapper().head("default")
    torch.testing.assert_close(head.weight.grad, numbers["grad.last.weight"], atol=1e-12, rtol=0)
    assert not head.weight.grad[:old].any()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_of_rows_does_not_matter(seed):
    numbers, pixels = load("oneprompt"), load("vit_plain")["pixel_values"]
    model = prompted_vit({name: numbers[f"prompt.{name}"] for name in PROMPTS}, numbers["last.weight"], numbers["last.bias"])
    before = model(pixels).logits
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for index, count in LAYER_TOKENS.items():
            layer, order = model.base_model.model.vit.layers[index].attention, generator.permutation(count)
            layer.one_prompt_k["default"].copy_(layer.one_prompt_k["default"][order].clone())
            layer.one_prompt_v["default"].copy_(layer.one_prompt_v["default"][order].clone())
    torch.testing.assert_close(model(pixels).logits, before, atol=1e-12, rtol=0)
