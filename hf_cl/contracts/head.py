"""The classifier, which grows with the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from torch import Tensor, nn


class Head(nn.Module):
    """The model's classifier. It grows with the classes and travels in the adapter.

    A head that wants the trainer's hooks (`PrototypeHead` refits at `end_session`) is a `Part` too.
    State that inference does not need lives in non-persistent buffers: checkpointed, never saved with the adapter.
    """

    num_classes: int
    moves_with_statistics: bool = True
    """False where the head keeps sums in a space of its own: when features move, nothing can move them along."""
    reads: Literal["features", "tokens"] = "features"
    """"tokens": what it, `Outputs.features` and `FeatureSet.features` hold is the map of patch tokens [B, H, W, D] instead of [B, D]: those
    of the last layer behind the final norm, row by row (`hf_cl.adapters.token_map`)."""
    grid: int | None = None
    """Of a head that reads tokens: the map is averaged to grid x grid places before the head, or any cache, sees it; None: as it is."""
    extras: tuple[str, ...] = ()
    """Names of what it hands out of a forward, for losses: tensors [B, ...], facts of each image."""
    most_classes: int | None = None
    """How many classes it has room for, where that is settled before the first one comes; None: any number."""
    fits: bool = False
    """Whether the head fits itself at the end of a session, so that it needs no phase to know the session's classes."""

    @property
    def own_temperature(self) -> float | None:
        """By what the head divides its logits itself; None where it does not, so that the run finds a temperature for it."""
        return None

    statistics: frozenset[str] = frozenset()
    """As `Part.statistics`."""
    new_classes_only: str = ""
    """As `Part.new_classes_only`."""

    reads_given: frozenset[str] = frozenset()
    """Facts of each image that it reads in `given`, by the adapter's names for them. Features alone do not bring them: no phase runs on
    features then, and test images go through the whole model."""
    given: Mapping[str, Tensor] = MappingProxyType({})
    """[B, ...] each: those facts of the images whose features it is looking at; empty where it is called alone, or by another adapter."""

    def grow(self, class_names: Sequence[str]) -> None:
        """Append rows for `class_names`; old rows keep their values to the bit."""
        raise NotImplementedError(f"{type(self).__name__} does not implement grow")

    @classmethod
    def reads_tokens(cls, settings: Mapping[str, Any]) -> bool:
        """Whether a head with these settings reads tokens, before there is one."""
        return cls.reads == "tokens"

    def take_extras(self) -> dict[str, Tensor]:
        """What `extras` names, of the last forward; handed out once, so that no graph outlives its step."""
        return {}

    def write_texts(self, rows: Tensor, projection: Tensor | None) -> None:
        """Copy in what the class names say, after each growth: text embeddings [C, E] at unit length and the image tower's projection
        [E, D], or [C, K, E] and None where the head has fixed targets. Called where `hf_cl.backbones.reads_texts` is true of its spec."""
        raise NotImplementedError(f"{type(self).__name__} does not implement write_texts")

    def embed(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, E]. Identity by default; a head that reads tokens gives a vector too, from [B, H, W, D]."""
        return features

    def logits_and_embedding(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[B, D] -> [B, C], [B, E]: both at once, as a features phase asks for them. A head whose logits come out of its embedding
        overrides it, so that what lies before runs once."""
        return self(features), self.embed(features)

    def as_linear(self) -> nn.Linear | None:
        """A plain linear layer with the same logits for the same features, where there is one: what an export to a stock model needs."""
        return None

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C] -> [B, C] what predictions show; the softmax, unless the head was trained under another normalisation."""
        return logits.softmax(-1)
