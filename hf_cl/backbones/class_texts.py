"""Texts of class names in the space of a text tower, for heads that judge by pictures and names.

Shapes: C classes, K texts of a class, D width of the image tower's pooled output, E width of the joint space.
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
    """Class names as a text tower reads them, and the projection of the image tower beside it. Neither tower is kept."""

    by_name: Mapping[str, Tensor]
    """Name -> [E] at unit length; [K, E] under a head that has several targets a class."""
    projection: Tensor | None
    """[E, D]; None where the head reads nothing that it would project."""

    @property
    def width(self) -> int:
        """E."""
        return next(iter(self.by_name.values())).shape[-1]

    @property
    def filled_in(self) -> dict[str, int]:
        """What a run writes into the head's spec, since shapes follow from it."""
        row = next(iter(self.by_name.values()))
        return {"text_width": self.width} | ({"num_targets": len(row)} if row.ndim == 2 else {})

    def rows(self, class_names: Sequence[str]) -> Tensor:
        """[C, E] or [C, K, E]"""
        return torch.stack([self.by_name[name] for name in class_names])


def reads_texts(head: Mapping[str, Any] | None) -> bool:
    """Whether a head's spec lets class names join in."""
    head = head or {}
    if head.get("type") == "maxsim":
        return head.get("source") == "text"
    return head.get("type") == "language_targets" or (head.get("type") != "text" and head.get("text", "none") != "none")


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
    model, rows = encode_templates(base, class_names, [template], revision=revision)
    if family_of(model) not in ("clip", "siglip"):
        raise ValueError(
            f"A head with `text` needs a CLIP or SigLIP model of transformers; {base!r} is of the family {family_of(model)!r}."
        )
    return EncodedNames(dict(zip(class_names, rows[0], strict=True)), projection_of(model, rows.shape[-1]))


@torch.no_grad()
def encode_templates(
    base: str, class_names: Sequence[str], templates: Sequence[str | None], *, revision: str | None = None
) -> tuple[Any, Tensor]:
    """The text tower in eval mode, and [K, C, E] what it says of all classes under each of K templates, float32 at unit length.

    Raises ValueError as `encode_names`.
    """
    texts = [TextHeadSpec.of({} if template is None else {"template": template}).texts(class_names) for template in templates]
    base = shared_name(base)  # a model that ships with hf_cl knows its folder alone
    model: Any = load_two_towers(base, revision=revision).eval().float()
    tokenizer = load_tokenizer(base, revision=revision)
    device = next(model.parameters()).device
    found = []
    for of_template in texts:
        tokens = ClassTokens(model, tokenizer, reserved=0)
        tokens.add(class_names, of_template)
        chunks = [range(start, min(start + AT_ONCE, len(of_template))) for start in range(0, len(of_template), AT_ONCE)]
        batches = [tokens.batch(chunk, device) for chunk in chunks]  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue] (torch's decorator)
        found.append(torch.cat([F.normalize(encode_texts(model, batch), dim=-1) for batch in batches]))  # [C, E]
    return model, torch.stack(found)


def projection_of(model: Any, width: int) -> Tensor:
    """[E, D] from the pooled output of the image tower to the joint space of a CLIP or SigLIP model of transformers."""
    if family_of(model) == "siglip":  # its pooled output lies in the joint space as it is
        return torch.eye(width)
    return model.visual_projection.weight.detach().clone()
