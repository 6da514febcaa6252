"""Texts of class names in the joint space of a base's two towers, for heads that judge by pictures and names.

Shapes: C classes, D width of the image tower's pooled output, E width of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters.bases import family_of
from hf_cl.adapters.class_tokens import ClassTokens
from hf_cl.adapters.towers import encode_texts
from hf_cl.backbones.loading import shared_name
from hf_cl.backbones.two_towers import load_tokenizer, load_two_towers
from hf_cl.heads.text import TextHeadSpec

AT_ONCE = 64
"""Texts of one forward."""


@dataclass(frozen=True)
class EncodedNames:
    """Class names as the text tower reads them, and the projection of the image tower. Neither tower is kept."""

    by_name: Mapping[str, Tensor]
    """Name -> [E] at unit length."""
    projection: Tensor
    """[E, D]"""

    @property
    def width(self) -> int:
        """E."""
        return len(self.projection)

    def rows(self, class_names: Sequence[str]) -> Tensor:
        """[C, E]"""
        return torch.stack([self.by_name[name] for name in class_names])


def reads_texts(head: Mapping[str, Any] | None) -> bool:
    """Whether a head's spec lets class names join in."""
    return (head or {}).get("type") != "text" and (head or {}).get("text", "none") != "none"


@torch.no_grad()
def encode_names(base: str, class_names: Sequence[str], template: str | None = None, *, revision: str | None = None) -> EncodedNames:
    """The texts of all classes through the text tower of the base whose image tower is trained on.

    Args:
        base: a Hub id or folder of a CLIP or SigLIP model of transformers, or `demo_clip`.
        class_names: every class that is going to be taught.
        template: text of a class; `{}` is its name. None: that of the text head.
        revision: the Hub revision of the base.

    Raises ValueError for a base without a text tower, and for names that the text tower cannot read or tell apart.
    """
    texts = TextHeadSpec.of({} if template is None else {"template": template}).texts(class_names)
    base = shared_name(base)  # a model that ships with hf_cl knows its folder alone
    model: Any = load_two_towers(base, revision=revision).eval()
    family = family_of(model)
    if family not in ("clip", "siglip"):
        raise ValueError(f"A head with `text` needs a CLIP or SigLIP model of transformers; {base!r} is of the family {family!r}.")
    tokens = ClassTokens(model, load_tokenizer(base, revision=revision), reserved=0)
    tokens.add(class_names, texts)
    chunks = [range(start, min(start + AT_ONCE, len(texts))) for start in range(0, len(texts), AT_ONCE)]
    batches = [tokens.batch(chunk, model.device) for chunk in chunks]  # pyright: ignore[reportAttributeAccessIssue] (torch's decorator)
    rows = torch.cat([F.normalize(encode_texts(model, batch), dim=-1) for batch in batches])  # [C, E]
    if family == "siglip":  # its pooled output lies in the joint space as it is
        projection = torch.eye(rows.shape[1])
    else:
        projection = model.visual_projection.weight.clone()  # [E, D]
    return EncodedNames(dict(zip(class_names, rows, strict=True)), projection)
