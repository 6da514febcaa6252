"""Configuration of the peft type HYPER_LORA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from peft import PeftConfig, PeftType
from torch import Tensor, nn
from torch.nn.functional import normalize

from hf_cl.adapters.bases import signature
from hf_cl.adapters.config import MAX_ROWS, HeadedConfig
from hf_cl.adapters.field_types import check_choice, check_count
from hf_cl.adapters.query_pass import query_misfits


@dataclass
class HyperLoraConfig(HeadedConfig, PeftConfig):
    """LoRA whose factors a recurrent hypernetwork generates, layer by layer, from one embedding per session.

    A later session costs one vector more. The idea is that of dependency preserving hypernetworks (Chandra et al., arXiv 2209.07712), of
    which the abstract alone was known here; that factors of LoRA are generated, and every default, is ours.

    Raises ValueError for sizes below 1, an empty `layers_to_transform`, and for what `HeadedConfig` refuses.
    """

    r: int = field(default=4, metadata={"help": "rank of the generated matrices"})
    lora_alpha: float = field(default=4, metadata={"help": "what they add is scaled by lora_alpha / r"})
    embedding_dim: int = field(default=32, metadata={"help": "length of a session's embedding"})
    layer_dim: int = field(default=32, metadata={"help": "length of the code of a layer"})
    hidden_size: int = field(default=64, metadata={"help": "units of the recurrent network in session 0"})
    grow_hidden: int = field(default=0, metadata={"help": "units that each further session adds to it"})
    new_embedding: Literal["last", "zero", "random"] = field(
        default="last", metadata={"help": "what a session's embedding begins as; last: that of the session before it"}
    )
    session_inference: Literal["prototype", "given"] = field(
        default="prototype",
        metadata={
            "help": "whose factors an image gets in eval mode; prototype: of the session with the class whose mean is nearest to the "
            "image's query; given: of the one that set_session says, else the newest"
        },
    )
    grows: bool = field(
        default=True, metadata={"help": "whether later sessions get an embedding; False where they do not train the adapter"}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Linear modules that get LoRA; by default q_proj and v_proj of the vision tower"}
    )
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "peft's own meaning"})
    layers_to_transform: list[int] | int | None = field(default=None, metadata={"help": "blocks that get LoRA; None: all"})
    layers_pattern: list[str] | str | None = field(
        default_factory=lambda: ["layers", "layer"], metadata={"help": "names of the module lists that number the blocks"}
    )
    layer_paths: list[str] | None = field(
        default=None, metadata={"help": "the modules in the order in which they are generated; filled at injection, checked at loading"}
    )
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "set at injection: the head"})
    init_weights: bool = field(
        default=True, metadata={"help": "False: B is random too, so that the adapter is no identity (peft's own tests)"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType["HYPER_LORA"]
        self.check_shared_fields()
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(self.layers_to_transform, int):
            self.layers_to_transform = [self.layers_to_transform]
        if self.layers_to_transform == []:
            raise ValueError("layers_to_transform is empty, which peft would read as all layers; name blocks, or leave it None.")
        for name in ("r", "embedding_dim", "layer_dim", "hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        for name in ("embedding_dim", "layer_dim", "hidden_size", "grow_hidden"):
            check_count(name, getattr(self, name), MAX_ROWS, "more than a small network has")
        if self.grow_hidden < 0:
            raise ValueError(f"grow_hidden must be at least 0, got {self.grow_hidden}.")
        if not 0 < self.lora_alpha < math.inf:
            raise ValueError(f"lora_alpha must be a positive number, got {self.lora_alpha}.")
        for name, known in {"new_embedding": ("last", "zero", "random"), "session_inference": ("prototype", "given")}.items():
            check_choice(name, getattr(self, name), known)

    @property
    def scaling(self) -> float:
        """By what the product of the factors is multiplied."""
        return self.lora_alpha / self.r

    @property
    def session_sizes(self) -> list[int]:
        """How many classes each session brought that has an embedding."""
        sizes = self.classes_per_session or [len(self.class_names or ())]
        return sizes if self.grows else [sum(sizes)]

    @property
    def hidden_units(self) -> int:
        """Units of the recurrent network by now."""
        return self.hidden_size + self.grow_hidden * (len(self.session_sizes) - 1)

    def misfits(self, model: nn.Module) -> list[str]:
        depth = signature(model)["depth"]
        chosen: Sequence[int] = self.layers_to_transform or ()  # pyright: ignore[reportAssignmentType]
        faults = query_misfits(model) if self.session_inference == "prototype" else []
        if missing := sorted(layer for layer in chosen if not 0 <= layer < depth):
            faults.append(f"layers_to_transform names blocks {missing}; the base has blocks 0 to {depth - 1}.")
        return faults

    def of_classes(self, tensors: Mapping[str, Tensor], parts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        session_of = [session for session, size in enumerate(self.session_sizes) for _ in range(size)]
        names = self.class_names or []
        apart = [", ".join(names[part] for part in own) for own in parts if len({session_of[part] for part in own}) > 1]
        if apart:
            raise ValueError(
                f"Of different sessions are {'; '.join(apart)}. A HYPER_LORA adapter looks at an image with the factors of one session, so "
                "only classes that came together can be merged."
            )

        def row(means: Tensor, own: Sequence[int]) -> Tensor:  # [C, Q] -> [Q]
            return means[own[0]] if len(own) == 1 else normalize(means[list(own)].mean(0), dim=0)

        found = {name: means for name, means in tensors.items() if name.endswith("hyper_lora_generator.means")}
        if not found and len(parts) != len(names):
            raise ValueError("The means of this small adapter's classes are codes; change the classes of the one it was made of.")
        return {name: torch.stack([row(means, own) for own in parts]) for name, means in found.items()}

    def depth_of(self, module_name: str) -> float:
        """Number of the block that a module belongs to; beyond all where it is in none."""
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else (self.layers_pattern or ["layers"])
        found = [re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module_name) for pattern in patterns]
        return next((float(match.group(1)) for match in found if match), math.inf)
