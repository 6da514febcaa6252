"""The entries of results.json: who was trained on what, and what it took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""No unknown keys, no conversions, no NaN."""

Environment = dict[str, str | bool | int | list[str] | None]
"""What a run ran on: versions, devices, processes, precision, backbone."""


@dataclass(frozen=True)
class MethodRecord:
    """What was trained: `name` as `hf-cl train` takes it, `title` in prose."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    title: str


@dataclass(frozen=True)
class IndexListRecord:
    """Where the choice of images comes from."""

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["standard", "custom", "own_draw"]
    sha256: str | None = None
    """Over the lists; None for an own draw."""


@dataclass(frozen=True, kw_only=True)
class ProtocolRecord:
    """The stream: what it takes to make the same sessions again. None where a protocol does not have the value."""

    __pydantic_config__: ClassVar = STRICT
    name: str
    dataset: str
    num_base_classes: int | None = None
    classes_per_session: int | None = None
    shots: int | None = None
    class_order: str = "natural"
    """Name of the order or file; the resolved order are the class names of the sessions."""
    class_order_seed: int = 0
    index_list: IndexListRecord | None = None
    test_split: str = "test"
    validation_fraction: float = 0.0
    left_out_images: int = 0
    """By `skip_bad_images`."""
    details: dict[str, Any] = field(default_factory=dict)
    """What only this scenario has: angles, a share of blurry images."""

    @property
    def domains(self) -> list[str]:
        """Of a stream whose sessions are domains, their names in order; else none."""
        return list(map(str, self.details.get("domains", ())))


@dataclass(frozen=True)
class SessionRecord:
    """One session. `num_test` counts its own test images; `num_train` is 0 for the adapter that a run started from."""

    __pydantic_config__: ClassVar = STRICT
    id: int
    new_class_names: list[str]
    num_train: int
    num_test: int
    trained: bool
    """False where no optimizer step was taken; prototype rows alone are not training."""
    temperature: float | None = None
    """By what logits were divided, found on images that the head had not seen; None: not calibrated."""
    kept_images: int = 0
    """Training images, of this session and earlier ones, that a memory holds after it; 0: exemplar-free."""


@dataclass(frozen=True)
class ParameterCounts:
    """Scalars of the model after the last session, adapter and head included."""

    __pydantic_config__: ClassVar = STRICT
    trainable: int
    total: int


@dataclass(frozen=True)
class Times:
    """Seconds: per session, and from start to end."""

    __pydantic_config__: ClassVar = STRICT
    training: list[float]
    evaluation: list[float]
    total: float


@dataclass(frozen=True)
class Memory:
    """Most bytes in use, per session.

    `kind` "cuda": what torch had allocated on the main process's GPU during the session; "process": the largest resident set of the main
    process since it began, which never falls.
    """

    __pydantic_config__: ClassVar = STRICT
    kind: Literal["cuda", "process"]
    peak_bytes: list[int]
