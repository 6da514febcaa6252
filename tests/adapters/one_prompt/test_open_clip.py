"""OnePrompt on open_clip's vision tower, whose nn.MultiheadAttention gets a forward of its own.

Shapes: B images, N tokens, P rows, D width.
"""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import VisionTransformer
from peft import PeftModel, get_peft_model
from torch import nn

from hf_cl.adapters import OnePromptConfig
from hf_cl.adapters.prefix import multihead_attention_with_prefix
from hf_cl.backbones import OpenClipForImageClassification

NAMES = ["cat", "dog", "rabbit"]


def base() -> OpenClipForImageClassification:
    torch.manual_seed(0)
    visual = VisionTransformer(image_size=32, patch_size=8, width=32, layers=6, heads=4, mlp_ratio=2, output_dim=16)
    return OpenClipForImageClassification(visual, 16, "open_clip:tiny").eval()


def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def adapted() -> PeftModel:
    return get_peft_model(base(), OnePromptConfig(layer_tokens={0: 2, 1: 3}, class_names=list(NAMES))).eval()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_without_rows_it_is_multihead_attention(batch_first, masked):
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(32, 4, batch_first=batch_first).eval(), torch.randn(5, 5, 32)
    mask = torch.full((5, 5), -torch.inf).triu(1) if masked else None
    none = torch.zeros(0, 32)  # [P = 0, D]
    expected = attention(x, x, x, need_weights=False, attn_mask=mask)[0]
    torch.testing.assert_close(multihead_attention_with_prefix(attention, x, (none, none), mask), expected)


def test_rows_count_like_tokens_with_those_keys_and_values():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(32, 4, batch_first=True).eval(), torch.randn(2, 5, 32)
    q, k, v = torch.nn.functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)  # [B, N, D] each
    rows = torch.randn(3, 32), torch.randn(3, 32)
    keys, values = (torch.cat([r.expand(2, -1, -1), t], 1) for r, t in zip(rows, (k, v), strict=True))  # [B, P+N, D]
    q, keys, values = (t.unflatten(-1, (4, 8)).transpose(1, 2) for t in (q, keys, values))
    expected = (q @ keys.mT / 8**0.5).softmax(-1) @ values  # [B, H, N, d]
    expected = attention.out_proj(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(multihead_attention_with_prefix(attention, x, rows, None), expected)


def test_prompts_train_and_the_base_comes_back():
    with torch.no_grad():  # nn.MultiheadAttention has another kernel for weights that could train
        plain = base()(images()).logits
    model = adapted().train()
    torch.nn.functional.cross_entropy(model(images()).logits, torch.tensor([0, 1, 2, 0])).backward()
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert sum("one_prompt" in name for name in trainable) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trainable.values())
    with torch.no_grad(), model.disable_adapter():
        assert torch.equal(model.eval()(images()).logits, plain)


@torch.no_grad()
def test_save_and_load(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert torch.equal(loaded(images()).logits, model(images()).logits)
    assert list(loaded.get_base_model().config.id2label.values()) == NAMES
