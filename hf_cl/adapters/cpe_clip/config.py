"""Configuration of the peft type CPE_CLIP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from peft import PeftConfig, PeftType
from torch import nn

from hf_cl.adapters.config import MAX_ROWS, HeadedConfig
from hf_cl.adapters.cpe_clip.sites import text_tower
from hf_cl.adapters.field_types import check_choice, check_count
from hf_cl.heads.text import check_text_head

TEXT_HEAD: dict[str, Any] = {"type": "text", "template": "{}.", "logit_scale": 100.0, "clean_class_names": True}
"""CPE-CLIP's head on a model with two towers: the text is "<class name>.", the logits are 100 times the cosine."""

CHOICES = {
    "towers": ("both", "text", "vision"),
    "text_mode": ("replace",),
    "vision_mode": ("accumulate", "replace", "accumulate_same"),
    "coupling": ("shared_linear", "per_layer_linear", "independent"),
    "init": ("xavier", "normal", "words"),
}


@dataclass
class CPEClipConfig(HeadedConfig, PeftConfig):
    """CPE-CLIP (D'Alessandro et al., ICCVW 2023): the same few prompt vectors in every layer of both CLIP towers.

    Text prompts stand behind BOS and are replaced at each layer; vision prompts are the same vectors through one linear layer, are appended
    to the patches and accumulate. The fields cover its relatives too: `towers="text"`, `prompt_depth=1` is CoOp's shared context before
    the name; `towers="vision"` is VPT; `coupling="per_layer_linear"`, `vision_mode="replace"`, `prompt_depth=9` is MaPLe;
    `coupling="independent"` are PromptSRC's prompts. Layers are counted from 0: `prompt_depth` D prompts layers 0 to D-1.

    Raises ValueError for an unknown mode, numbers below 1, `init="words"` without words or without a text tower, a malformed text head,
    and for what `HeadedConfig` refuses.
    """

    num_prompt_tokens: int = field(default=2, metadata={"help": "prompt vectors per layer"})
    prompt_depth: int | None = field(
        default=None,
        metadata={"help": "layers with prompts, from the first; None: the depth of the shallower tower with prompts. Filled at injection"},
    )
    towers: str = field(default="both", metadata={"help": f"which towers get prompts: {', '.join(CHOICES['towers'])}"})
    text_mode: str = field(default="replace", metadata={"help": "what happens to the text prompts between layers; only `replace`"})
    vision_mode: str = field(default="accumulate", metadata={"help": f"the same for vision prompts: {', '.join(CHOICES['vision_mode'])}"})
    coupling: str = field(
        default="shared_linear",
        metadata={"help": f"how vision prompts come from text prompts, where both have them: {', '.join(CHOICES['coupling'])}"},
    )
    init: str = field(
        default="xavier", metadata={"help": "xavier, normal (std 0.02), or words (layer 0 from init_text, the others normal)"}
    )
    init_text: str | None = field(default=None, metadata={"help": "words whose first token embeddings start the prompts of layer 0"})
    init_token_ids: list[int] | None = field(default=None, metadata={"help": "their token ids; filled from init_text at injection"})
    init_seed: int | None = field(
        default=None, metadata={"help": "seed of a generator for the initial values alone; None: torch's global one"}
    )
    init_weights: bool = field(default=True, metadata={"help": "peft's own meaning; the prompts are drawn either way"})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "set at injection: the module that owns the prompts"})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "set at injection where the head is a classifier"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["CPE_CLIP"]
        self.check_shared_fields()
        for name, allowed in CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name in ("num_prompt_tokens", "prompt_depth"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}.")
        check_count("num_prompt_tokens", self.num_prompt_tokens, MAX_ROWS, "more than any tower reads")
        if self.init == "words" and not (self.init_text or self.init_token_ids):
            raise ValueError("init='words' needs init_text.")
        if self.init == "words" and self.towers == "vision":
            raise ValueError("init='words' needs prompts in the text tower; towers is 'vision'.")
        if self.has_text_head:
            check_text_head(self.head or {})

    def reserved_text_positions(self, model: nn.Module) -> int:
        """The prompts'. A tower that pools at the end needs one more, of padding, to see where the text is over."""
        if self.towers == "vision":
            return 0
        tower = text_tower(model)
        return self.num_prompt_tokens + (1 if tower is not None and tower.pooling == "last" else 0)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if name == "text_mode" and value in ("accumulate", "accumulate_same"):
        raise ValueError(
            f"text_mode {value!r} is not supported: it would change the length of the text inside the tower, and with it mask and pooling. "
            "Use 'replace'."
        )
    check_choice(name, value, allowed)
