"""The pass of the untouched tower ahead of a forward: compiled, after a forward that failed; rows of each image under flash attention."""

from __future__ import annotations

import pytest
import torch
from peft import get_peft_model
from tiny import ADAPTERS, HYPER, NAMES, base, images
from torch._dynamo.testing import CompileCounter
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_cl.adapters import HyperLoraConfig


@torch.no_grad()
def perturbed(config, family="vit"):
    model = get_peft_model(base(family), config).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def pooled(**options):
    return perturbed(ADAPTERS["PROMPT_POOL"](class_names=NAMES[:3], **options))


def sessions():
    """Generated LoRA whose images have different sessions; the head reads which."""
    options = {"class_names": NAMES[:6], "classes_per_session": [2, 2, 2], "head": {"type": "session_linear"}}
    model = perturbed(HyperLoraConfig(r=4, **HYPER, **options))
    queries = model.base_model.queries(images())
    model.base_model.write_means("default", 0, torch.stack([queries[1], -queries[1], queries[0], queries[3], queries[2], -queries[2]]))
    return model


@pytest.mark.slow  # ten seconds of processor; the contract compiles every type once
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo asks rows with a graph for theirs
@pytest.mark.parametrize("make", [pooled, sessions])
def test_compiled_it_serves_batches_that_come_again_without_a_new_graph(make):
    torch.compiler.reset()
    model, counter = make(), CompileCounter()
    compiled = torch.compile(model, backend=counter, dynamic=True)
    for count in (4, 3):
        torch.testing.assert_close(compiled(images(count)).logits, model(images(count)).logits)
    graphs = counter.frame_count
    for count in (4, 3, 2):
        torch.testing.assert_close(compiled(images(count)).logits, model(images(count)).logits)
    assert counter.frame_count == graphs > 0


@pytest.mark.parametrize("graded", [True, False])
@pytest.mark.parametrize("where", ["query", "forward"])
def test_after_a_forward_that_failed(where, graded):
    """In the untouched tower's pass, or in the one with rows."""
    model = pooled()
    want, passes = model(images()).logits, []

    def fail(module, args):
        passes.append(1)
        if len(passes) == (1 if where == "query" else 2):
            raise RuntimeError("out of memory, say")

    handle = model.get_base_model().vit.layers[3].register_forward_pre_hook(fail)
    with torch.set_grad_enabled(graded), pytest.raises(RuntimeError, match="say"):
        model(images())
    handle.remove()
    assert all(layer.rows() is None for layer in model.base_model.pool_layers())
    assert torch.equal(model(images()).logits, want)


def seen_by_flash(module, query, key, value, attention_mask, **kwargs):
    """In the place of a flash kernel, which takes no mask."""
    assert attention_mask is None and key.shape == value.shape and len(key) == len(query)
    _lengths.append((query.shape[2], key.shape[2]))
    return sdpa_attention_forward(module, query, key, value, None, **kwargs)


_lengths: list[tuple[int, int]] = []


def test_rows_of_each_image_reach_a_flash_kernel(monkeypatch):
    model = pooled()
    want = model(images()).logits
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        torch.testing.assert_close(model(images()).logits, want, atol=1e-5, rtol=0)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", seen_by_flash)
    model.config._attn_implementation = "flash_attention_2"
    _lengths.clear()
    torch.testing.assert_close(model(images()).logits, want, atol=1e-5, rtol=0)
    assert _lengths == [(17, 17)] * 6 + [(17, 19)] * 5 + [(17, 17)]  # the query's six layers; then five with two rows, and one without


def test_a_copy_made_while_queries_are_kept_has_none():
    model = pooled()
    queries, pixels = model.base_model.query_pass(), images()
    with queries.keeping(), torch.no_grad():
        want = model(pixels).logits
        assert torch.equal(model(pixels).logits, want) and queries.__getstate__()["_kept"] is None
