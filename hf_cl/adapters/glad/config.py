"""Configuration of the peft type GLAD."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from peft import LoraConfig, PeftType

from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.field_types import brief, check_pattern
from hf_cl.contracts import GradientRule
from hf_cl.heads.text import check_text_head
from hf_cl.hints import nearest

TEXT_HEAD: dict[str, Any] = {"type": "text", "template": "a photo of a {}.", "logit_scale": 100.0, "clean_class_names": True}
"""CLIP-LoRA's head on a model with two towers."""

PLAIN_INITS = (True, False, "gaussian", "orthogonal")
"""The others of peft change the base's own weights at injection, and again each time the adapter is loaded."""
NOT_PLAIN = (
    *(
        "megatron_config",
        "layer_replication",
        "alora_invocation_tokens",
        "arrow_config",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
    ),
    *("kasa_config", "loftq_config", "lora_ga_config", "monteclora_config", "target_parameters", "trainable_token_indices", "use_bdlora"),
    *("use_qalora", "velora_config"),
)

RULES = ("glad", "sam", "sagm", "gradient_norm", "prograd", "none")


@dataclass
class GladConfig(HeadedConfig, LoraConfig):
    """GLAD (Peng et al., arXiv 2507.13089): LoRA, trained by a gradient that is regularised towards flat regions.

    The adapter is an ordinary LoRA on q, k and v, by default with CLIP-LoRA's rank 2 and scaling alpha / sqrt(r). `rule` and its numbers
    record how it was trained: `hf_cl.methods.glad` builds the rule from them, inference ignores them. The paper names neither rank nor
    radius; the defaults are CLIP-LoRA's and SAM's.

    Raises ValueError for an unknown rule, `rho` <= 0 under a rule that uses it, `lam` outside [0, 1] with rule glad, gradient_norm
    without `mu`, a malformed text head, kinds of LoRA that are not plain (those that change the base among them), and for what
    `HeadedConfig` and `LoraConfig` refuse.
    """

    r: int = field(default=2, metadata={"help": "rank"})
    lora_alpha: int = field(default=1, metadata={"help": "scaling is lora_alpha / sqrt(r)"})
    use_rslora: bool = field(default=True, metadata={"help": "peft's own meaning"})
    lora_dropout: float = field(default=0.25, metadata={"help": "dropout on the input of the LoRA branch"})
    rule: str = field(default="glad", metadata={"help": f"gradient rule of the training: {', '.join(RULES)}"})
    rho: float = field(default=0.05, metadata={"help": "radius of the perturbation, in parameter units"})
    lam: float = field(
        default=None,  # pyright: ignore[reportAssignmentType] (filled in __post_init__)
        metadata={"help": "weight of the perturbed gradient (glad, 0.5), or of the projection (prograd, 1.0)"},
    )
    sagm_alpha: float = field(default=1e-3, metadata={"help": "alpha of sagm"})
    mu: float | None = field(default=None, metadata={"help": "weight of the gradient norm (gradient_norm)"})

    def __post_init__(self) -> None:
        for name in NOT_PLAIN:  # before peft makes objects of their values
            if getattr(self, name):
                raise ValueError(f"GLAD is plain LoRA; it has no {name}.")
        super().__post_init__()
        self.peft_type = PeftType["GLAD"]
        self.check_shared_fields()
        self._check_plain()
        self._check_rule()
        if self.has_text_head:
            check_text_head(self.head or {})

    def _check_plain(self) -> None:
        """What would change the base's own weights, load other code or need a state of its own is not GLAD's LoRA."""
        check_pattern("layers_pattern", self.layers_pattern)
        if self.init_lora_weights not in PLAIN_INITS:
            raise ValueError(f"init_lora_weights must be one of {', '.join(map(str, PLAIN_INITS))}, got {brief(self.init_lora_weights)}.")
        if self.bias not in ("none", "all", "lora_only"):
            raise ValueError(f"bias must be none, all or lora_only, got {brief(self.bias)}.")
        plain = LoraConfig()
        for name in NOT_PLAIN:
            setattr(self, name, getattr(plain, name))  # of some peft asks "is not None", and [] is not
        self.rank_pattern, self.alpha_pattern = self.rank_pattern or {}, self.alpha_pattern or {}  # peft's hint allows None, its code not
        for pattern, rank in self.rank_pattern.items():
            check_pattern("rank_pattern", pattern)
            if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
                raise ValueError(f"rank_pattern holds {brief(rank)} for {brief(pattern)}; a rank is a whole number of at least 1.")
        for pattern, alpha in self.alpha_pattern.items():
            check_pattern("alpha_pattern", pattern)
            if not isinstance(alpha, int | float) or not -math.inf < alpha < math.inf:
                raise ValueError(f"alpha_pattern holds {brief(alpha)} for {brief(pattern)}, which is no number.")

    def _check_rule(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}.{nearest(self.rule, RULES)}")
        if self.lam is None:
            self.lam = 1.0 if self.rule == "prograd" else 0.5
        if self.rule not in ("none", "prograd") and not self.rho > 0:
            raise ValueError(f"rho is the radius of rule {self.rule!r} and must be positive, got {self.rho}.")
        if self.rule == "glad" and not 0 <= self.lam <= 1:
            raise ValueError(f"lam of rule 'glad' must lie in [0, 1], got {self.lam}.")
        if self.rule == "gradient_norm" and self.mu is None:
            raise ValueError("Rule 'gradient_norm' needs mu, the weight of the gradient norm.")

    def check_rule(self, rule: GradientRule) -> None:
        """Raise ValueError where a method trains by another rule than is recorded here: the adapter would carry a wrong record.

        A rule that a config cannot name, one of your own, goes with `rule="none"`: nothing is recorded then.
        """
        found = {"rule": "none", **rule.record()}
        wrong = {name: value for name, value in found.items() if vars(self).get(name) != value}
        if wrong:
            mine = ", ".join(f"{name}={vars(self).get(name)!r}" for name in wrong)
            theirs = ", ".join(f"{name}={value!r}" for name, value in wrong.items())
            raise ValueError(
                f"The adapter's config records {mine}, but the method trains by {type(rule).__name__} with {theirs}. Set the config's rule "
                "and its numbers (rule='none' for plain LoRA and for a rule of your own)."
            )

    def to_lora_config(self) -> LoraConfig:
        """The same adapter as plain LoRA, for people without hf_cl; class names, head and rule stay behind."""
        names = {f.name for f in fields(LoraConfig)} - {"peft_type", "auto_mapping", "peft_version"}
        return LoraConfig(**{name: value for name, value in self.to_dict().items() if name in names})


def plain_lora(
    *,
    r: int = 8,
    lora_alpha: int | None = None,
    lora_dropout: float = 0.0,
    target_modules: list[str] | str | None = None,
    head: dict[str, Any] | None = None,
) -> GladConfig:
    """LoRA (Hu et al., ICLR 2022) as peft has it, of type GLAD without a rule: on q, k and v, scaled by lora_alpha / r.

    Args:
        r: rank.
        lora_alpha: None: r, so the scale is 1.
        lora_dropout: on the input of the LoRA branch.
        target_modules: peft's own meaning; None: q, k and v.
        head: the head's spec.
    """
    return GladConfig(
        r=r,
        lora_alpha=r if lora_alpha is None else lora_alpha,
        use_rslora=False,
        lora_dropout=lora_dropout,
        rule="none",
        target_modules=target_modules,
        head=head,
    )
