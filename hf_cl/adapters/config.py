"""What all hf_cl adapter configs share: class names, head, format version and the signature of the base."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor, nn

from hf_cl.adapters.field_types import brief, check_pattern, check_types
from hf_cl.adapters.files import check_folder
from hf_cl.adapters.small.tensors import read_table
from hf_cl.contracts import GradientRule

FORMAT_VERSION = 1
MAX_ROWS = 4096
"""Prefix rows or prompt vectors of one layer; a backbone reads some hundred tokens."""


@dataclass
class HeadedConfig:
    """Mixin in front of a `PeftConfig`. Its fields are saved in adapter_config.json.

    Raises ValueError for a newer `format_version`, a field of another type than its own, class names that are not distinct non-empty
    strings, or a `classes_per_session` that does not add up to the class names.
    """

    class_names: list[str] | None = field(default=None, metadata={"help": "names of the classes, in the order of the head's rows"})
    classes_per_session: list[int] | None = field(default=None, metadata={"help": "how many of the class names each session brought"})
    head: dict[str, Any] | None = field(default=None, metadata={"help": "{'type': 'linear' | 'cosine' | ..., settings of that type}"})
    temperature: float | None = field(
        default=None, metadata={"help": "in eval mode logits are divided by it, so that their softmax is calibrated; None: 1"}
    )
    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "version of the hf_cl adapter format"})
    base_signature: dict[str, Any] | None = field(
        default=None, metadata={"help": "model type, hidden size and depth of the base; filled at injection, checked at loading"}
    )
    small: dict[str, Any] | None = field(
        default=None,
        metadata={"help": "which tensors the file holds as codes, in how many bits; None once they are loaded, and for ordinary files"},
    )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any) -> Self:
        """As peft's; a local folder is looked at first.

        Raises ValueError, naming the file, for a config that cannot be used, tensors that are no whole safetensors file, and a pickle.
        """
        folder = Path(pretrained_model_name_or_path) / (subfolder or "")
        is_local = (folder / "adapter_config.json").is_file()
        if is_local:
            check_folder(folder)
        try:
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)  # pyright: ignore
        except ValueError as error:
            if str(pretrained_model_name_or_path) in str(error):
                raise
            raise ValueError(f"{folder / 'adapter_config.json'}: {error}") from error
        config._read = (folder, config._as_read()) if is_local else None
        return config

    @property
    def reads_pooled(self) -> bool:
        """Whether the head reads a vision tower's pooled output."""
        return (self.head or {}).get("pool") is not None

    @property
    def has_text_head(self) -> bool:
        """Whether the class names themselves are the classifier, which takes a base with two towers."""
        return (self.head or {}).get("type") == "text"

    def check_rule(self, rule: GradientRule) -> None:
        """Raise ValueError where the config records another gradient rule than the one that trains it. Most record none."""

    def check_domains(self, domain_names: Sequence[str]) -> None:
        """Raise ValueError where the adapter needs the domains of images and cannot do with those that a stream has. Most need none."""

    def misfits(self, model: nn.Module) -> list[str]:
        """What of a new adapter does not fit the base, a sentence each: all that can be seen without putting it in."""
        return []

    def reserved_text_positions(self, model: nn.Module) -> int:
        """Positions of the text context that the adapter takes for itself, so that class names must leave them free."""
        return 0

    def of_classes(self, tensors: Mapping[str, Tensor], parts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Of the tensors in the adapter's file those outside of the head that have a row for each class, with rows for new classes.

        `parts` are the old classes of each new one, by position; several become one. Most adapters have no such tensor. Raises ValueError
        for classes that cannot become one.
        """
        return {}

    def folder(self) -> Path | None:
        """The local folder this config was read from, for as long as nobody has changed a field: then its tensors must fit the config."""
        read = vars(self).get("_read")
        return read[0] if read is not None and read[1] == self._as_read() else None

    def _as_read(self) -> dict[str, Any]:
        values = self.to_dict()  # pyright: ignore[reportAttributeAccessIssue]
        return {name: value for name, value in values.items() if name != "inference_mode"}  # which peft sets as it loads

    def __post_init__(self) -> None:
        if isinstance(self.format_version, int) and self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This adapter has format_version {brief(self.format_version)}; this hf_cl reads up to {FORMAT_VERSION}. "
                "Upgrade with `pip install -U hf-cl`."
            )
        check_types(self)  # before peft computes with the values
        super().__post_init__()  # pyright: ignore[reportAttributeAccessIssue]

    def check_shared_fields(self) -> None:
        """Called by every config's own `__post_init__`."""
        for name in ("target_modules", "exclude_modules"):
            check_pattern(name, vars(self).get(name))
        if self.head is not None and not isinstance(self.head.get("type"), str):
            raise ValueError(f"The head {brief(self.head)} has no type; give one such as {{'type': 'linear'}}.")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature divides logits: it must be a positive number, got {brief(self.temperature)}.")
        if self.small is not None:
            read_table(self.small)
        self._check_class_names()

    def _check_class_names(self) -> None:
        names, sizes = self.class_names, self.classes_per_session
        if names is None:
            return
        if not all(name.strip() for name in names):
            raise ValueError("class_names must be a list of non-empty strings.")
        if len(set(names)) != len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)
            raise ValueError(f"class_names must differ; these occur more than once: {brief(twice[:5])}.")
        if sizes is not None and (sum(sizes) != len(names) or any(size < 0 for size in sizes)):
            raise ValueError(f"classes_per_session {brief(sizes)} does not add up to the {len(names)} class names.")
