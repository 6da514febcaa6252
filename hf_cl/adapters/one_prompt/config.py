"""Configuration of the peft type ONE_PROMPT."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft import PeftConfig, PeftType
from torch import nn

from hf_cl._peft import DUMMY_TARGET_MODULES
from hf_cl.adapters.bases import signature
from hf_cl.adapters.config import MAX_ROWS
from hf_cl.adapters.field_types import check_count
from hf_cl.adapters.prefix_config import PrefixConfig

OVOR_LAYER_TOKENS = {0: 5, 1: 5, 2: 20, 3: 20, 4: 20}
"""OVOR's prompt lengths 10 and 40, half of the rows for keys and half for values."""


@dataclass
class OnePromptConfig(PrefixConfig, PeftConfig):
    """OnePrompt (OVOR, Huang et al., ICLR 2024): one set of prefix key/value rows in the first attention layers, trained on every session.

    Give `layer_tokens` (rows per layer) or `num_tokens` (the same number in every layer); by default OVOR's five layers. An empty
    `layer_tokens` puts rows nowhere: the adapter is the head alone, on the untouched backbone.

    Raises ValueError for lengths below 1, for both kinds of length at once, and for what `HeadedConfig` refuses.
    """

    layer_tokens: dict[int, int] | None = field(
        default=None, metadata={"help": "layer index (from 0) -> prefix rows for the keys, and as many for the values"}
    )
    num_tokens: int | None = field(default=None, metadata={"help": "one length for every targeted layer; excludes layer_tokens"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["ONE_PROMPT"]
        self.check_shared_fields()
        if self.layer_tokens is not None and self.num_tokens is not None:
            raise ValueError("Give layer_tokens or num_tokens, not both.")
        if self.layer_tokens is None and self.num_tokens is None:
            self.layer_tokens = dict(OVOR_LAYER_TOKENS)
        if self.layer_tokens is not None:
            self.layer_tokens = {int(layer): int(rows) for layer, rows in self.layer_tokens.items()}  # JSON turns keys into strings
            if not self.layer_tokens:
                self.target_modules = DUMMY_TARGET_MODULES
        self.check_layers()
        for rows in (self.layer_tokens or {}).values() if self.num_tokens is None else [self.num_tokens]:
            if rows < 1:
                raise ValueError(f"A layer's number of prefix rows must be at least 1, got {rows}.")
            check_count("A layer's number of prefix rows", rows, MAX_ROWS, "more than any backbone reads")

    @property
    def layers_with_rows(self) -> list[int] | None:
        return None if self.layer_tokens is None else sorted(self.layer_tokens)

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
