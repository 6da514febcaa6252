"""What configs of adapters with prefix rows share: which attention modules get them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from hf_cl.adapters.config import HeadedConfig


@dataclass
class PrefixConfig(HeadedConfig):
    """Mixin in front of a `PeftConfig` whose tuner is a `PrefixModel`. Raises ValueError as `HeadedConfig`."""

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "attention modules; by default those of the vision tower"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "peft's own meaning; by default the layers that get rows"}
    )
    layers_pattern: list[str] | str | None = field(
        default_factory=lambda: ["layers", "layer", "resblocks"],
        metadata={"help": "names of the module lists that number the layers (Dinov2 says layer, open_clip resblocks)"},
    )
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "set at injection: the head"})
    init_weights: bool = field(default=True, metadata={"help": "peft's own meaning; rows are drawn either way"})

    @property
    def layers_with_rows(self) -> list[int] | None:
        """Indices of the layers that get rows; None for all."""
        raise NotImplementedError(f"{type(self).__name__} does not implement layers_with_rows")

    def check_layers(self) -> None:
        """Called by every config's own `__post_init__`, once its layers are known: what peft and the tuner read of them."""
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
        if self.layers_with_rows and self.layers_to_transform is None and not isinstance(self.target_modules, str):
            self.layers_to_transform = self.layers_with_rows

    def layer_of(self, module_name: str) -> int | None:
        """Index of the layer that a module belongs to."""
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else (self.layers_pattern or ["layers"])
        for pattern in patterns:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module_name)
            if found:
                return int(found.group(1))
        return None
