"""What the configs of adapters on the weights share."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_cl.adapters.config import HeadedConfig


@dataclass
class WeightConfig(HeadedConfig):
    """Which modules are changed. Mixin in front of a `PeftConfig`, as `HeadedConfig`."""

    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "modules to adapt, Linear or Conv2d, as names or a regex; None: the Linears of attention and MLP"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_pattern: list[str] | str | None = field(
        default_factory=lambda: ["layers", "layer", "resblocks", "blocks"],
        metadata={"help": "names of the module lists that number the layers (Dinov2 says layer, open_clip resblocks, timm blocks)"},
    )
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "peft's own meaning; injection adds the head"})
    init_weights: bool = field(
        default=True, metadata={"help": "True: the adapter starts as the identity; False: at small draws, for tests"}
    )

    def check_shared_fields(self) -> None:
        super().check_shared_fields()
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            if isinstance(value, list):
                setattr(self, name, set(value))
