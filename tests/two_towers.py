"""Tiny models with two towers, of every kind that takes a text head, and a tokenizer of fifty words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.model import CLIP, CustomTextCLIP
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, SiglipConfig, SiglipModel

SIDE = 32
CONTEXT = 24
BOS, EOS, DOT = 62, 63, 5
STONES = ("quartz", "basalt", "gneiss", "marble", "slate", "chalk")
WORDS = {f"w{i}": i for i in range(10, 50)} | {"a": 6, "photo": 7, "of": 8} | {stone: 50 + i for i, stone in enumerate(STONES)}
NAMES = ["w10", "w11 w12", "w13", "w14_w15_w16", "w17"]
TEXT = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 64}
VISION = {"hidden_size": 48, "num_attention_heads": 6, "intermediate_size": 96, "image_size": SIDE, "patch_size": 8}


def tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """One id per word, BOS in front (CLIP) or not (SigLIP), EOS behind, EOS as padding."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0, ".": DOT, **WORDS, "<bos>": BOS, "<eos>": EOS}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    template = "<bos> $A <eos>" if bos else "$A <eos>"
    inner.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", unk_token="<unk>", model_max_length=CONTEXT
    )


def clip(text_layers: int = 3, vision_layers: int = 4) -> CLIPModel:
    text = {**TEXT, "num_hidden_layers": text_layers, "max_position_embeddings": CONTEXT, "bos_token_id": BOS, "eos_token_id": EOS}
    vision = {**VISION, "num_hidden_layers": vision_layers, "projection_dim": 24}
    return CLIPModel(CLIPConfig(text_config={**text, "pad_token_id": EOS, "projection_dim": 24}, vision_config=vision, projection_dim=24))


def siglip() -> SiglipModel:
    text = {**TEXT, "num_hidden_layers": 3, "max_position_embeddings": CONTEXT, "pad_token_id": EOS, "projection_size": 48}
    return SiglipModel(SiglipConfig(text_config=text, vision_config={**VISION, "num_hidden_layers": 4}))


def _open_clip_settings(text_layers: int, vision_layers: int) -> dict[str, Any]:
    return {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": SIDE, "patch_size": 8, "width": 48, "layers": vision_layers, "head_width": 8, "mlp_ratio": 2},
        "text_cfg": {"context_length": CONTEXT, "vocab_size": 64, "width": 32, "heads": 4, "layers": text_layers, "mlp_ratio": 2},
    }


def open_clip(text_layers: int = 3, vision_layers: int = 4) -> CLIP:
    return CLIP(**_open_clip_settings(text_layers, vision_layers))


def custom_text() -> CustomTextCLIP:
    return CustomTextCLIP(**_open_clip_settings(3, 4))


def custom_text_last() -> CustomTextCLIP:
    """As open_clip's SigLIP models: bidirectional, no BOS, pooled at the last position."""
    settings = _open_clip_settings(3, 4)
    settings["text_cfg"] |= {"no_causal_mask": True, "pool_type": "last", "pad_id": EOS}
    return CustomTextCLIP(**settings)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "clip": clip,
    "siglip": siglip,
    "open_clip": open_clip,
    "custom_text": custom_text,
    "custom_text_last": custom_text_last,
}
FAMILIES = tuple(BUILDERS)
WITHOUT_BOS = ("siglip", "custom_text_last")


def base(family: str, seed: int = 0) -> nn.Module:
    """A tiny base with seeded random weights, in eval mode; random texts and images are told apart."""
    torch.manual_seed(seed)
    model = BUILDERS[family]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding" in name or "proj" in name:
                parameter.mul_(3.0)
    return model


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    return tokenizer(bos=family not in WITHOUT_BOS)


def images(count: int = 4, seed: int = 5) -> torch.Tensor:
    """[count, 3, SIDE, SIDE]"""
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def enable_checkpointing(model: nn.Module, reentrant: bool = False) -> None:
    """Gradient checkpointing in both libraries' ways."""
    if isinstance(model, (CLIP, CustomTextCLIP)):
        model.set_grad_checkpointing(True)
    else:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})  # pyright: ignore


def to_open_clip(source: CLIPModel) -> CLIP:
    """The same weights as an open_clip model."""
    weights = source.state_dict()
    text, vision = source.config.text_config, source.config.vision_config
    twin = open_clip(text.num_hidden_layers, vision.num_hidden_layers)
    names = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "logit_scale": "logit_scale",
    }
    state = {theirs: weights[ours] for ours, theirs in names.items()}
    state |= {"text_projection": weights["text_projection.weight"].T, "visual.proj": weights["visual_projection.weight"].T}
    norms = {
        "text_model.final_layer_norm": "ln_final",
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
    }
    inside = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "self_attn.out_proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    for tower, blocks, depth in (
        ("text_model", "transformer", text.num_hidden_layers),
        ("vision_model", "visual.transformer", vision.num_hidden_layers),
    ):
        for i in range(depth):
            layer, block = f"{tower}.encoder.layers.{i}", f"{blocks}.resblocks.{i}"
            norms |= {f"{layer}.{ours}": f"{block}.{theirs}" for ours, theirs in inside.items()}
            for kind in ("weight", "bias"):
                state[f"{block}.attn.in_proj_{kind}"] = torch.cat([weights[f"{layer}.self_attn.{p}_proj.{kind}"] for p in "qkv"])
    state |= {f"{theirs}.{kind}": weights[f"{ours}.{kind}"] for ours, theirs in norms.items() for kind in ("weight", "bias")}
    twin.load_state_dict(state, strict=False)
    assert state.keys() == twin.state_dict().keys()
    return twin.eval()


def grow(classifier: Any, class_names: list[str]) -> None:
    """A session's classes, as the loop adds them: the text head reads the names, the tuner's config has them then."""
    config = classifier.head.config
    classifier.read_names(class_names)
    config.classes_per_session = [*(config.classes_per_session or [len(config.class_names)]), len(class_names)]
    config.class_names = [*config.class_names, *class_names]
