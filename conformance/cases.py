"""Which configs of which adapter type run on which model, and the two kinds of test that a type may leave out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from hf_cl.adapters import (
    AsyncLoraConfig,
    CompanderConfig,
    CPEClipConfig,
    DstConfig,
    GladConfig,
    HyperLoraConfig,
    LowRankConfig,
    MaskTuningConfig,
    OnePromptConfig,
    PromptPoolConfig,
    SaraConfig,
    SessionNormConfig,
)


@dataclass(frozen=True)
class Case:
    """One config of one type on one model."""

    type: str
    family: str
    """vit, clip_vision, or custom: peft's own MLP and Conv models."""
    name: str
    config: type
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    """Id of the model; the family's own where it is empty."""
    without: frozenset[str] = frozenset()
    """Kinds of test left out: MERGING, IDENTITY."""

    @property
    def id(self) -> str:
        return f"{self.type}/{self.family}/{self.name}"

    @property
    def model_id(self) -> str:
        return self.model or self.family


MERGING = "merging: rows of a prefix or a prompt cannot be merged into weights"
IDENTITY = "identity at init: the adapter changes the output from the start"
PROMPTS = frozenset({MERGING, IDENTITY})

HEAD = {"class_names": [f"class {i}" for i in range(5)], "head": {"type": "linear"}}
"""With class names the adapter brings a new head."""
ASYNC = {"r": 4, "lora_dropout": 0.0, "head": {"type": "linear"}}
HYPER = {"r": 4, "embedding_dim": 4, "layer_dim": 4, "hidden_size": 8}
GLAD = {"r": 4, "lora_dropout": 0.0}
SARA = {"density": 0.2}
MASK = {"init_value": 5.001e-3}
"""So near to the threshold that the tests' few steps mask something."""


def _one_prompt(family: str, attention: str) -> list[Case]:
    def case(name: str, **settings: Any) -> Case:
        return Case("ONE_PROMPT", family, name, OnePromptConfig, {"layer_tokens": {0: 2, 1: 3}, **settings}, without=PROMPTS)

    return [
        case("default"),
        case("list", target_modules=[attention]),
        case("regex", target_modules=rf".*layers\.1\.{attention}"),
        case("modules to save", modules_to_save=["classifier"]),
        case("head", **HEAD),
    ]


def _prompt_pool(family: str, attention: str) -> list[Case]:
    def case(name: str, **settings: Any) -> Case:
        return Case("PROMPT_POOL", family, name, PromptPoolConfig, {"e_layers": [0, 1], "e_tokens": 2, **settings}, without=PROMPTS)

    coda = {"producer": "coda", "components_per_session": 2}
    return [
        case("coda", **coda),
        case("l2p", producer="l2p", pool_size=4, top_k=2),
        case("dual", producer="dual", e_layers=[1], g_layers=[0], g_tokens=2),
        case("mvp", producer="mvp", e_layers=[1], g_layers=[0], g_tokens=2, pool_size=4),
        case("list", target_modules=[attention], **coda),
        case("modules to save", modules_to_save=["classifier"], **coda),
        case("head", **HEAD, **coda),
    ]


def _cpe_clip() -> list[Case]:
    def case(name: str, **settings: Any) -> Case:
        return Case("CPE_CLIP", "clip_vision", name, CPEClipConfig, {"towers": "vision", **settings}, without=PROMPTS)

    return [
        case("default"),
        case("replace", vision_mode="replace", num_prompt_tokens=3),
        case("modules to save", modules_to_save=["classifier"]),
        case("head", **HEAD),
    ]


def _async_lora(family: str) -> list[Case]:
    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case("ASYNC_LORA", family, name, AsyncLoraConfig, {**ASYNC, **settings}, without=frozenset(without))

    return [
        case("default"),
        case("list", target_modules=["k_proj", "fc1"]),
        case("regex", target_modules=r".*vision_model.*\.(q_proj|fc1)" if family == "clip_vision" else r".*\.(q_proj|fc1)"),
        case("modules to save", modules_to_save=["classifier"]),
        case("resting copies", unfreeze_from=1),
        case("unfrozen", unfreeze_from=1, unfrozen=True),
        case("all unfrozen", unfreeze_from=-1, unfrozen=True),
        case("head", IDENTITY, **HEAD),
    ]


def _hyper_lora(family: str) -> list[Case]:
    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case("HYPER_LORA", family, name, HyperLoraConfig, {**HYPER, **settings}, without=frozenset(without))

    return [
        case("default"),
        case("list", target_modules=["k_proj", "fc1"]),
        case("regex", target_modules=r".*vision_model.*\.(q_proj|fc1)" if family == "clip_vision" else r".*\.(q_proj|fc1)"),
        case("modules to save", modules_to_save=["classifier"]),
        case("head", IDENTITY, **HEAD),
    ]


def _glad(family: str) -> list[Case]:
    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case("GLAD", family, name, GladConfig, {**GLAD, **settings}, without=frozenset(without))

    return [
        case("default"),
        case("list", target_modules=["q_proj", "fc1"]),
        case("regex", target_modules=r".*layers\.1\..*\.(q_proj|v_proj)"),
        case("modules to save", modules_to_save=["classifier"]),
        case("head", IDENTITY, **HEAD),
    ]


def _sara(family: str) -> list[Case]:
    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case("SARA", family, name, SaraConfig, {**SARA, **settings}, without=frozenset(without))

    norm = "layer_norm1" if family == "clip_vision" else "layernorm_before"
    return [
        case("default"),
        case("list", target_modules=["q_proj", "fc1"]),
        case("regex", target_modules=r".*layers\.1\..*\.(q_proj|fc2)"),
        case("modules to save", modules_to_save=["classifier"]),
        case("biases and norms", include_bias_norm=True, target_modules=["fc1", norm]),
        case("rows in blocks", block_rows=24),
        case("head", IDENTITY, **HEAD),
    ]


def _session_norm(family: str) -> list[Case]:
    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case("SESSION_NORM", family, name, SessionNormConfig, settings, without=frozenset(without))

    norm = "layer_norm1" if family == "clip_vision" else "layernorm_before"
    return [
        case("default"),
        case("list", target_modules=[norm]),
        case("regex", target_modules=rf".*layers\.1\.{norm}"),
        case("modules to save", modules_to_save=["classifier"]),
        case("interpolate", conditioning="interpolate", codes={"night": 0.0, "noon": 12.0}, domains=["night"]),
        case("head", IDENTITY, **HEAD),
    ]


def _on_weights(kind: str, config: type, family: str, **common: Any) -> list[Case]:
    """Types whose layers stand around Linears."""

    def case(name: str, *without: str, **settings: Any) -> Case:
        return Case(kind, family, name, config, {**common, **settings}, without=frozenset(without))

    return [
        case("default"),
        case("list", target_modules=["q_proj", "fc1"]),
        case("regex", target_modules=r".*layers\.1\..*\.(q_proj|fc2)"),
        case("modules to save", modules_to_save=["classifier"]),
        case("head", IDENTITY, **HEAD),
    ]


def _low_rank(family: str) -> list[Case]:
    """Factors of a lower rank than the weight give something else from the start."""
    cases = _on_weights("LOW_RANK", LowRankConfig, family)
    return [replace(case, without=frozenset({IDENTITY})) for case in cases]


def _custom() -> list[Case]:
    """peft's own models: layers on a Linear or Conv2d ask for no ViT."""
    glad = {
        "MLP list": ("MLP", {"target_modules": ["lin0", "lin1"]}),
        "MLP name": ("MLP", {"target_modules": "lin0"}),
        "MLP modules to save": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
        "Conv2d": ("Conv2d", {"target_modules": ["conv2d"]}),
    }
    asynchronous = {
        "MLP list": ("SizedMLP", {"target_modules": ["lin0", "lin1"]}),
        "MLP name": ("SizedMLP", {"target_modules": "lin0"}),
        "MLP modules to save": ("SizedMLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    }
    sara = {
        **glad,
        "MLP biases": ("MLP", {"target_modules": ["lin0", "lin1"], "include_bias_norm": True}),
        "MLP norms": ("MLP_LayerNorm", {"target_modules": ["lin0", "layernorm0"], "include_bias_norm": True}),
        "Conv2d groups": ("Conv2dGroups", {"target_modules": ["conv2d"]}),
    }
    types = (
        ("GLAD", GladConfig, GLAD, glad),
        ("ASYNC_LORA", AsyncLoraConfig, ASYNC, asynchronous),
        ("SARA", SaraConfig, SARA, sara),
        ("DST", DstConfig, SARA, {**glad, "Conv2d groups": ("Conv2dGroups", {"target_modules": ["conv2d"]})}),
        ("MASK_TUNING", MaskTuningConfig, MASK, {**glad, "Conv2d groups": ("Conv2dGroups", {"target_modules": ["conv2d"]})}),
        ("SESSION_NORM", SessionNormConfig, {}, {"MLP norms": ("MLP_LayerNorm", {"target_modules": ["layernorm0"]})}),
        ("COMPANDER", CompanderConfig, {}, {**glad, "Conv2d groups": ("Conv2dGroups", {"target_modules": ["conv2d"]})}),
    )
    low_rank = {
        "MLP name": ("MLP", {"target_modules": "lin0"}),
        "MLP modules to save": ("MLP", {"target_modules": ["lin0"], "modules_to_save": ["lin1"]}),
    }
    return [
        *(Case("LOW_RANK", "custom", name, LowRankConfig, of, model, frozenset({IDENTITY})) for name, (model, of) in low_rank.items()),
        *(
            Case(kind, "custom", name, config, {**common, **settings}, model)
            for kind, config, common, cases in types
            for name, (model, settings) in cases.items()
        ),
    ]


CASES = [
    *_one_prompt("vit", "attention"),
    *_one_prompt("clip_vision", "self_attn"),
    *_prompt_pool("vit", "attention"),
    *_prompt_pool("clip_vision", "self_attn"),
    *_cpe_clip(),
    *[
        case
        for family in ("vit", "clip_vision")
        for make in (_async_lora, _hyper_lora, _glad, _sara, _session_norm)
        for case in make(family)
    ],
    *_on_weights("COMPANDER", CompanderConfig, "vit"),
    *_on_weights("COMPANDER", CompanderConfig, "clip_vision", mode="residual"),
    *_on_weights("DST", DstConfig, "vit", **SARA),
    *_on_weights("DST", DstConfig, "clip_vision", init="erk", **SARA),
    *_on_weights("MASK_TUNING", MaskTuningConfig, "vit", **MASK),
    *_on_weights("MASK_TUNING", MaskTuningConfig, "clip_vision", sessions="stack", **MASK),
    *[case for family in ("vit", "clip_vision") for case in _low_rank(family)],
    *_custom(),
]
BY_ID = {case.id: case for case in CASES}
