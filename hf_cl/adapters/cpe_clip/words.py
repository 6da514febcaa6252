"""Words and prompt vectors: words as initial values, and the words nearest to what was learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.cpe_clip.layer import CPEClipLayer


def token_ids_of(model: nn.Module, text: str) -> list[int]:
    """Token ids of `text`, without BOS and EOS, by the tokenizer saved with the transformers base of `model`.

    Raises ValueError where there is none.
    """
    name = "" if family_of(model) == OPEN_CLIP else str(model.name_or_path)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)(text, add_special_tokens=False)["input_ids"]
    except (OSError, ValueError) as error:
        raise ValueError(
            f"init_text needs the tokenizer of the base, and there is none under the name {name!r}. Give init_token_ids."
        ) from error


@torch.no_grad()
def nearest_tokens(layer: CPEClipLayer, adapter_name: str, tokenizer: Any, k: int = 1) -> list[list[list[str]]]:
    """For each layer and text prompt the `k` words whose token embeddings are nearest (Euclidean distance), nearest first.

    Only layer 0's prompts live among the embeddings; what is nearest to a deeper one says little.

    Raises ValueError for an adapter without text prompts.
    """
    if layer.settings[adapter_name].text_width is None:
        raise ValueError(f"Adapter {adapter_name!r} has no text prompts.")
    prompts = layer.cpe_clip_prompts[adapter_name].float()  # [K, L, D]
    base: Any = layer.get_base_layer()
    embeddings = base.weight.float()  # [V, D]
    distances = torch.cdist(prompts.flatten(0, 1), embeddings)  # [K * L, V]
    nearest = distances.topk(k, largest=False).indices.unflatten(0, prompts.shape[:2])  # [K, L, k]
    return [[tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in per_layer] for per_layer in nearest]
