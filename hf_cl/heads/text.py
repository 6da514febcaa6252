"""What a text head says of a class: the settings in the adapter's `head` dict, and the text made from a class name.

The head itself is the model's text tower (`hf_cl.backbones.TextHead`); it has no weights of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from hf_cl.hints import nearest

CORRECTIONS = {"cra": "crab"}
"""Names that a well-known data set misspells: CIFAR-100 on the Hub writes crab as "cra"."""


@dataclass(frozen=True)
class TextHeadSpec:
    """The `head` dict of an adapter with a text head, without its `type`."""

    template: str = "a photo of a {}."
    """The text of a class; `{}` is its name."""
    logit_scale: float | Literal["model"] = 100.0
    """Logits are this times the cosine of image and text; "model": the base's own scale (and SigLIP's bias)."""
    clean_class_names: bool = True
    """Underscores become spaces, and known misspellings are corrected, in the texts alone: labels keep the names they have."""

    @classmethod
    def of(cls, head: Mapping[str, Any]) -> TextHeadSpec:
        """From the `head` dict of a config.

        Raises ValueError for an unknown key, a template without exactly one `{}`, or a scale that is neither positive nor "model".
        """
        settings = {key: value for key, value in head.items() if key != "type"}
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise ValueError(f"A text head has no setting {key!r}; it has {', '.join(known)}.{nearest(key, known)}")
        spec = cls(**settings)
        if not isinstance(spec.template, str) or spec.template.count("{}") != 1:
            raise ValueError(f"The template of a text head needs exactly one {{}} for the class name, got {spec.template!r}.")
        scale = spec.logit_scale
        if scale != "model" and (isinstance(scale, (bool, str)) or not scale > 0):
            raise ValueError(f"The logit_scale of a text head is a positive number or 'model', got {scale!r}.")
        return spec

    def text(self, class_name: str) -> str:
        """The text of one class."""
        return self.template.replace("{}", clean(class_name) if self.clean_class_names else class_name)

    def texts(self, class_names: Sequence[str]) -> list[str]:
        """The texts of all classes.

        Raises ValueError for a name that is empty once cleaned, or two names with the same text.
        """
        seen: dict[str, str] = {}
        for name in class_names:
            said = clean(name) if self.clean_class_names else name
            if not said.strip():
                raise ValueError(f"The class name {name!r} is empty: a text head knows a class by its name alone.")
            text = self.text(name)
            if text in seen:
                raise ValueError(
                    f"The classes {seen[text]!r} and {name!r} have the same text {text!r}; a text head cannot tell them apart."
                )
            seen[text] = name
        return list(seen)


def check_text_head(head: Mapping[str, Any]) -> None:
    """Raise ValueError for a malformed `head` dict of type "text"."""
    TextHeadSpec.of(head)


def clean(class_name: str) -> str:
    """A class name as people write it: no underscores, single spaces, no number in front, known misspellings corrected.

    The number is that of CUB-200's folders: `001.Black_footed_Albatross`.
    """
    words = " ".join(re.sub(r"^\d{3}\.", "", class_name).replace("_", " ").split())
    return CORRECTIONS.get(words, words)
