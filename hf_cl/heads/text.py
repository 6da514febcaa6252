"""What a text head says of a class: the settings in the adapter's `head` dict, and the text made from a class name.

The head itself is the model's text tower (`hf_cl.backbones.TextHead`); it has no weights of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from hf_cl.heads.fitted import check_count, check_number
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
    learned_words: Literal["none", "auto", "all"] | Sequence[str] = "none"
    """Classes that get words of their own, found from their training images, in the place of their names: "auto" those whose names hold no
    word that the text tower knows (part numbers, codes), "all", or a list of names."""
    words_per_class: int = 1
    """Learned words of such a class."""
    words_start: Literal["nearest", "name"] = "nearest"
    """Where they begin: at what the nearest words of the vocabulary say, or at the tokens of the name."""
    words_steps: int = 100
    """Steps of Adam that find them."""
    words_lr: float = 5e-3
    """Its rate."""
    words_pull: float = 0.0
    """Weight of the squared distance to where they began; 0: none."""

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
        spec._check_words()
        return spec

    def _check_words(self) -> None:
        who, wanted = "A text head", self.learned_words
        if isinstance(wanted, str):
            named = wanted in ("none", "auto", "all")
        else:
            named = isinstance(wanted, Sequence) and len(wanted) > 0 and all(isinstance(name, str) for name in wanted)
        if not named:
            near = nearest(wanted, ("none", "auto", "all")) if isinstance(wanted, str) else ""
            raise ValueError(f"{who}: learned_words is none, auto, all or a list of class names, got {wanted!r}.{near}")
        if self.words_start not in ("nearest", "name"):
            raise ValueError(f"{who}: words_start is nearest or name, got {self.words_start!r}.")
        check_count(who, "words_per_class", self.words_per_class, 1, 64)
        check_count(who, "words_steps", self.words_steps, 0, 10**6)
        check_number(who, "words_lr", self.words_lr, math.ulp(0.0), math.inf, "a positive number")
        check_number(who, "words_pull", self.words_pull, 0.0, math.inf, "a number from 0")

    @property
    def learns_words(self) -> bool:
        """Whether some class may get learned words."""
        return self.learned_words != "none"

    def wants_words(self, class_name: str, vocabulary: Collection[str]) -> bool:
        """Whether a class goes by learned words; `vocabulary` are the words that are one token of the text tower."""
        if isinstance(self.learned_words, str):
            return self.learned_words == "all" or (self.learned_words == "auto" and not _says_a_word(class_name, vocabulary))
        return class_name in self.learned_words

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


def _says_a_word(class_name: str, vocabulary: Collection[str]) -> bool:
    runs = re.findall(r"[^\W\d_]+", clean(class_name))
    return any(word in vocabulary or word.lower() in vocabulary for word in runs)


def check_text_head(head: Mapping[str, Any]) -> None:
    """Raise ValueError for a malformed `head` dict of type "text"."""
    TextHeadSpec.of(head)


def clean(class_name: str) -> str:
    """A class name as people write it: no underscores, single spaces, no number in front, known misspellings corrected.

    The number is that of CUB-200's folders: `001.Black_footed_Albatross`.
    """
    words = " ".join(re.sub(r"^\d{3}\.", "", class_name).replace("_", " ").split())
    return CORRECTIONS.get(words, words)
