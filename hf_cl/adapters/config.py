"""What all hf_cl adapter configs share: class names, head, format version and the signature of the base."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FORMAT_VERSION = 1


@dataclass
class HeadedConfig:
    """Mixin in front of a `PeftConfig`. Its fields are saved in adapter_config.json.

    Raises ValueError for a newer `format_version`, class names that are not distinct non-empty strings, or a `classes_per_session` that
    does not add up to the class names.
    """

    class_names: list[str] | None = field(default=None, metadata={"help": "names of the classes, in the order of the head's rows"})
    classes_per_session: list[int] | None = field(default=None, metadata={"help": "how many of the class names each session brought"})
    head: dict[str, Any] | None = field(default=None, metadata={"help": "{'type': 'linear' | 'cosine' | ..., settings of that type}"})
    format_version: int = field(default=FORMAT_VERSION, metadata={"help": "version of the hf_cl adapter format"})
    base_signature: dict[str, Any] | None = field(
        default=None, metadata={"help": "model type, hidden size and depth of the base; filled at injection, checked at loading"}
    )

    def check_shared_fields(self) -> None:
        """Called by every config's `__post_init__`."""
        if not isinstance(self.format_version, int) or self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This adapter has format_version {self.format_version!r}; this hf_cl reads up to {FORMAT_VERSION}. "
                "Upgrade with `pip install -U hf-cl`."
            )
        if self.class_names is None:
            return
        names = self.class_names
        if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ValueError("class_names must be a list of non-empty strings.")
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"class_names must differ; these occur more than once: {twice[:5]}.")
        if self.classes_per_session is not None and sum(self.classes_per_session) != len(names):
            raise ValueError(f"classes_per_session {self.classes_per_session} does not add up to the {len(names)} class names.")
