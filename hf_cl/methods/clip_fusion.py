"""Class names and pictures together, on a CLIP or SigLIP model that stays as it is: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hf_cl.contracts import Method
from hf_cl.methods.frozen import frozen
from hf_cl.settings import RunSettings

HEAD = {"type": "gaussian", "pool": "pooled", "text": "scores"}


def clip_fusion(head: Mapping[str, Any] | None = None) -> Method:
    """The Gaussian head on a CLIP or SigLIP image tower's pooled output, joined by what the class names say. Nothing is trained.

    Every picture has two opinions: log densities under the Gaussians of the classes, and cosines to the texts of their names. Both are
    standardised over the classes and added (`text: scores`), or the texts draw the class means towards them (`text: means`). The base is
    the image tower alone; the text tower is run once, when a run begins, and the adapter holds what it said.

    Args:
        head: the head's spec; None: `{type: gaussian, pool: pooled, text: scores}`.

    Raises ValueError for an unknown head, and for one that does not read class names.
    """
    spec = dict(head or HEAD)
    if spec.get("text", "none") == "none" or spec.get("type") == "text":
        raise ValueError(
            "clip_fusion uses class names and pictures: its head is one with `text: scores` or `text: means`, such as "
            "--head '{type: gaussian, pool: pooled, text: means}'. Pictures alone: `hf-cl train frozen`; names alone: a text head."
        )
    return replace(frozen(spec), name="clip_fusion", title="class names and Gaussians on the frozen image tower")


@dataclass
class ClipFusionSettings(RunSettings):
    """Settings of `clip_fusion`."""

    backbone: str = "openai/clip-vit-base-patch16"
    """A Hub id or folder of a CLIP or SigLIP model of transformers, or `demo_clip` (ships with hf_cl)."""
    head: dict[str, Any] = field(default_factory=lambda: dict(HEAD))
    """The head and its settings; with `text: scores` or `text: means`."""

    def method(self) -> Method:
        return clip_fusion(self.head)
