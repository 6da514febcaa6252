"""Configuration of the peft type ONE_PROMPT."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from peft import PeftConfig, PeftType
from torch import nn

from hf_cl._peft import DUMMY_TARGET_MODULES
from hf_cl.adapters.bases import signature
from hf_cl.adapters.config import MAX_ROWS, HeadedConfig
from hf_cl.adapters.field_types import check_count

OVOR_LAYER_TOKENS = {0: 5, 1: 5, 2: 20, 3: 20, 4: 20}
"""OVOR's prompt lengths 10 and 40, half of the rows for keys and half for values."""


@dataclass
class OnePromptConfig(HeadedConfig, PeftConfig):
    """OnePrompt (OVOR, Huang et al., ICLR 2024): one set of prefix key/value rows in the first attention layers, trained on every session.

    Give `layer_tokens` (rows per layer) or `num_tokens` (the same number in every layer); by default OVOR's five layers. An empty
    `layer_tokens` puts rows nowhere: the adapter is the head alone, on the untouched backbone.

    Raises ValueError for lengths below 1, for both kinds of length at once, and for what `HeadedConfig` refuses.
    """

    layer_tokens: dict[int, int] | None = field(
        default=None, metadata={"help": "layer index (from 0) -> prefix rows for the keys, and as many for the values"}
    )
    num_tokens: int | None = field(default=None, metadata={"help": "one length for every targeted layer; excludes layer_tokens"})
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "attention modules; by default those of the vision tower"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "peft's own meaning; by default the keys of layer_tokens"}
    )
    layers_pattern: list[str] | str | None = field(
        default_factory=lambda: ["layers", "layer", "resblocks"],
        metadata={"help": "names of the module lists that number the layers (Dinov2 says layer, open_clip resblocks)"},
    )
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "set at injection: the head"})
    init_weights: bool = field(default=True, metadata={"help": "peft's own meaning; rows are drawn from U[0, 1) either way"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ONE_PROMPT"]
        self.check_shared_fields()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
        if self.layer_tokens is not None and self.num_tokens is not None:
            raise ValueError("Give layer_tokens or num_tokens, not both.")
        if self.layer_tokens is None and self.num_tokens is None:
            self.layer_tokens = dict(OVOR_LAYER_TOKENS)
        if self.layer_tokens is not None:
            self.layer_tokens = {int(layer): int(rows) for layer, rows in self.layer_tokens.items()}  # JSON turns keys into strings
            if not self.layer_tokens:
                self.target_modules = DUMMY_TARGET_MODULES
            elif self.layers_to_transform is None and not isinstance(self.target_modules, str):
                self.layers_to_transform = sorted(self.layer_tokens)
        for rows in (self.layer_tokens or {}).values() if self.num_tokens is None else [self.num_tokens]:
            if rows < 1:
                raise ValueError(f"A layer's number of prefix rows must be at least 1, got {rows}.")
            check_count("A layer's number of prefix rows", rows, MAX_ROWS, "more than any backbone reads")

    def misfits(self, model: nn.Module) -> list[str]:
        depth = signature(model)["depth"]
        missing = sorted(layer for layer in self.layer_tokens or () if not 0 <= layer < depth)
        # peft matches the layers that exist and says nothing of the others
        return [f"layer_tokens names layers {missing}, but the base has layers 0 to {depth - 1}."] if missing else []

    def rows_for(self, module_name: str) -> int:
        """Number of rows of a targeted module.

        Raises ValueError where a regex in `target_modules` hit a layer without a length.
        """
        if self.num_tokens is not None:
            return self.num_tokens
        layer = self.layer_of(module_name)
        if layer is None or layer not in (self.layer_tokens or {}):
            raise ValueError(f"layer_tokens {self.layer_tokens} names no length for the targeted module {module_name!r}.")
        return self.layer_tokens[layer]  # pyright: ignore[reportOptionalSubscript]

    def layer_of(self, module_name: str) -> int | None:
        """Index of the layer that a module belongs to."""
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else (self.layers_pattern or ["layers"])
        for pattern in patterns:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module_name)
            if found:
                return int(found.group(1))
        return None
