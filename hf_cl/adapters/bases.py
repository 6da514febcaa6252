"""Which adapter goes on which base model, and what an adapter has to know of a base: one table, read by injection and the tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from hf_cl.adapters.low_rank_linear import is_low_rank

OPEN_CLIP = "open_clip"

_IMAGE_FAMILIES = {"vit": "vit", "deit": "deit", "dinov2": "dinov2", "timm_wrapper": "timm", OPEN_CLIP: OPEN_CLIP}
_TWO_TOWERS = ("clip", "siglip")

YES = ""
ANY = "any other model"
SUPPORT: dict[str, dict[str, str]] = {
    "ONE_PROMPT": {
        "vit": YES,
        "deit": YES,
        "dinov2": YES,
        "clip_vision": YES,
        "siglip_vision": YES,
        "clip": YES,
        "siglip": YES,
        "open_clip": YES,
        "timm": "timm's attention computes q, k and v in one fused Linear, so there is no place for prefix rows; "
        "load the same weights as a transformers ViT or Dinov2 model",
    },
    "PROMPT_POOL": {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "open_clip"), YES),
        "timm": "timm's attention computes q, k and v in one fused Linear, so there is no place for prefix rows; "
        "load the same weights as a transformers ViT or Dinov2 model",
    },
    "CPE_CLIP": dict.fromkeys(("clip", "siglip", "clip_vision", "siglip_vision", "clip_text", "siglip_text", "open_clip"), YES),
    "ASYNC_LORA": {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip"), YES),
        "timm": "timm's attention computes q, k and v in one fused Linear, so q and v have no layers of their own; "
        "load the same weights as a transformers ViT or Dinov2 model",
        "open_clip": "its attention holds q, k and v in one parameter, so q and v have no layers of their own; "
        "load the same weights as a transformers CLIP model",
    },
    "HYPER_LORA": {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip"), YES),
        "timm": "timm's attention computes q, k and v in one fused Linear, so q and v have no layers of their own; "
        "load the same weights as a transformers ViT or Dinov2 model",
        "open_clip": "its attention holds q, k and v in one parameter, so q and v have no layers of their own; "
        "load the same weights as a transformers CLIP model",
    },
    "GLAD": dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip"), YES),
    "COMPANDER": dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip", ANY), YES),
    "LOW_RANK": dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip", ANY), YES),
    "MASK_TUNING": {
        **dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", ANY), YES),
        "open_clip": "its attention holds q, k and v in one parameter, so their weights have no layers of their own; "
        "load the same weights as a transformers CLIP model",
    },
    "DST": dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip", ANY), YES),
    "SESSION_NORM": dict.fromkeys(
        ("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip", ANY), YES
    ),
    "SARA": dict.fromkeys(("vit", "deit", "dinov2", "clip_vision", "siglip_vision", "clip", "siglip", "timm", "open_clip", ANY), YES),
}
"""peft type -> base family -> "" where it works, else the reason why it does not. A family without an entry has that of `ANY`, and is
refused where there is none either."""


@dataclass(frozen=True)
class PatchTokens:
    """Where a family has its patch tokens."""

    tower: str
    """Path of the module that gives the hidden states of the last layer first."""
    first: int
    """Tokens before those of the patches."""
    norm: str | None = None
    """Path, in the tower, of the final norm where these states have not gone through it."""


PATCH_TOKENS = {
    "vit": PatchTokens("vit", 1),
    "deit": PatchTokens("deit", 2),
    "dinov2": PatchTokens("dinov2", 1),
    "clip_vision": PatchTokens("vision_model", 1, "post_layernorm"),
    "siglip_vision": PatchTokens("vision_model", 0),
}
"""By family; the others pool inside the model, or have no patches."""


def family_of(model: nn.Module) -> str:
    """The base family of `model`: a column of `SUPPORT`, or the model's own type name where hf_cl does not know it."""
    if type(model).__module__.startswith("open_clip."):
        return OPEN_CLIP
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind in _TWO_TOWERS:  # CLIPForImageClassification carries the two-tower config but has only the vision tower
        return kind if _has_text_tower(model) else f"{kind}_vision"
    for tower in _TWO_TOWERS:
        if kind in (f"{tower}_vision_model", f"{tower}_text_model"):
            return kind.removesuffix("_model")
    return _IMAGE_FAMILIES.get(kind, kind)


def _has_text_tower(model: nn.Module) -> bool:
    return any(name == "text_model" for name, _ in model.named_children())


def check_supported(peft_type: str, model: nn.Module) -> None:
    """Raise ValueError, naming both sides and the reason, where the adapter type does not fit the base."""
    family = family_of(model)
    known = SUPPORT[peft_type]
    unknown = f"hf_cl knows this adapter on: {', '.join(sorted(k for k, v in known.items() if v == YES))}"
    reason = known.get(family, known.get(ANY, unknown))
    if reason:
        raise ValueError(f"{peft_type} does not support {type(model).__name__} (base family {family!r}): {reason}.")
    if family == OPEN_CLIP and type(vision_tower(model)).__name__ != "VisionTransformer":
        tower = type(vision_tower(model)).__name__
        raise ValueError(f"{peft_type} needs open_clip's own vision transformer; the image tower of this model is a {tower}.")


def signature(model: Any) -> dict[str, Any]:
    """Model type, width and depth of the base: what must agree between the model an adapter was trained on and the one it is put on.

    `transform` is there where the base was made of another one: "low_rank". Width and depth are None where the base's config does not name
    them (a UNet, a model without a config).
    """
    return {**_shape(model), **({"transform": "low_rank"} if is_low_rank(model) else {})}


def _shape(model: Any) -> dict[str, Any]:
    family = family_of(model)
    if family == OPEN_CLIP:
        transformer = vision_tower(model).transformer
        return {"model_type": OPEN_CLIP, "hidden_size": transformer.width, "depth": len(transformer.resblocks)}
    if family == "timm":
        timm_model = model.timm_model
        return {"model_type": f"timm/{model.config.architecture}", "hidden_size": timm_model.num_features, "depth": None}
    config = getattr(model, "config", None)
    vision = getattr(config, "vision_config", config)
    sizes = {"hidden_size": "hidden_size", "depth": "num_hidden_layers"}
    return {"model_type": family, **{name: getattr(vision, field, None) for name, field in sizes.items()}}


def vision_tower(model: Any) -> Any:
    """The vision tower of an open_clip model, or of hf_cl's classifier around one."""
    return model.visual


def check_signature(expected: dict[str, Any], model: nn.Module) -> None:
    """Raise ValueError where the adapter was made for another base; peft itself would load it with a warning and random rows."""
    found = signature(model)
    # a lone tower and the same tower in the full model take the same adapter
    same_type = str(expected.get("model_type", "")).removesuffix("_vision") == str(found["model_type"]).removesuffix("_vision")
    if same_type and all(expected.get(key) == found.get(key) for key in ("hidden_size", "depth", "transform")):
        return
    raise ValueError(f"The adapter was made for {_words(expected)}; this base is {_words(found)}. Load the base that the adapter names.")


def _words(sig: dict[str, Any]) -> str:
    compressed = ", compressed to low rank" if sig.get("transform") == "low_rank" else ""
    if sig.get("hidden_size") is None and sig.get("depth") is None:
        return f"{sig.get('model_type')}{compressed}"
    return f"{sig.get('model_type')} (width {sig.get('hidden_size')}, {sig.get('depth')} layers{compressed})"


def classifier_path(model: nn.Module) -> str:
    """Name of the module that `...ForImageClassification` classes classify with.

    Raises ValueError for a base without exactly one classifier.
    """
    if family_of(model) == "timm":
        return "timm_model.head"
    children = dict(model.named_children())
    if "cls_classifier" in children:
        raise ValueError(f"{type(model).__name__} has two classifiers; load the base with DeiTForImageClassification.")
    if "classifier" not in children:
        raise ValueError(
            f"{type(model).__name__} has no classifier for the adapter's class names; load the base with "
            "AutoModelForImageClassification, or through hf_cl.load."
        )
    return "classifier"


def classifier_width(model: Any) -> int:
    """Width D of the classifier's input, also where the base was loaded without labels (its classifier is an Identity then)."""
    classifier = model.get_submodule(classifier_path(model))
    if isinstance(classifier, nn.Linear):
        return classifier.in_features
    family = family_of(model)
    if family == OPEN_CLIP:
        return model.feature_width
    if family == "timm":
        return model.timm_model.num_features
    width = signature(model)["hidden_size"]
    if width is None:
        raise ValueError(
            f"hf_cl does not know the width of the classifier of {type(model).__name__}; train without class_names, or on a ViT."
        )
    return width * (2 if family == "dinov2" else 1)  # Dinov2 classifies [CLS, mean of patches]
