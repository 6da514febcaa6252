"""What a run sees of the world: data sets of images, the sessions in which they arrive, and the scenario that makes these."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


class ImageDataset(Protocol):
    """What a session trains and tests on: a map-style data set of images.

    Item i is `{"image": PIL.Image.Image (RGB), "label": int, "index": int}`. `labels[i]` is the position of the class in order of arrival,
    `indices[i]` a sample id that is stable over runs and unique in its split. Both are known without decoding an image.
    """

    @property
    def labels(self) -> Sequence[int]: ...
    @property
    def indices(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Any]: ...


@runtime_checkable
class FromSource(Protocol):
    """A data set that is a part of a larger one. Equal `indices` of data sets of one source are the same picture."""

    @property
    def source(self) -> Any: ...


def source_of(dataset: ImageDataset) -> Any:
    """What the sample ids of `dataset` count in: its source, or itself."""
    return dataset.source if isinstance(dataset, FromSource) else dataset


@runtime_checkable
class FromDomains(Protocol):
    """A data set that knows the domain of each image, numbered in order of arrival; None where it does not."""

    @property
    def domains(self) -> Sequence[int] | None: ...


def domains_of(dataset: ImageDataset) -> Sequence[int] | None:
    """[n] the domain of each image, where the data set knows it."""
    return dataset.domains if isinstance(dataset, FromDomains) else None


@dataclass(frozen=True)
class Test:
    """One test set of a session and the classes that compete on it (positions; all seen classes by default)."""

    __test__ = False  # the name begins with "Test": pytest must not collect it

    name: str
    data: ImageDataset
    candidates: tuple[int, ...]
    own: tuple[int, ...] = ()
    """Positions among which task-aware accuracy chooses; (): the `own` classes of the session whose test it is."""


@dataclass(frozen=True)
class Session:
    """One step of a stream: new classes, or more images of those that are known. Session 0 is the base session."""

    id: int
    class_names: tuple[str, ...]
    """All classes seen so far, in order of arrival: the label of an image is its position here."""
    new_class_names: tuple[str, ...]
    """Those that it brings; () where it brings images of known classes alone."""
    train: ImageDataset
    tests: tuple[Test, ...]
    validation: ImageDataset | None = None
    """Images of the session that were held out of `train`; None where nothing is held out."""
    batch_size: int | None = None
    """Images per optimizer step of the run, over all processes: filled in by the loop before methods and hooks see the session."""
    exposed: Sequence[int] | None = None
    """Of an ordered session, which is one pass over `train` as it stands: how many classes have come by each image, [n]. None: its images
    are shuffled, in as many epochs as a method wants, and all its classes compete from its start."""
    joined: int = 0
    """How many images of a memory are shuffled in with `train`, by the loop; 0 where there is no memory, and where it has a `replay`."""
    joined_images: ImageDataset | None = None
    """`train`, and behind it what a memory has of earlier sessions: filled in when the session begins. None without a memory."""

    domain_names: tuple[str, ...] = ()
    """The domains that have come, as the numbers of `ctx.batch["domain"]` count them; () where the data know none."""

    @property
    def first_new_class(self) -> int:
        """Position of the first class that the session brings; those before it were known."""
        return len(self.class_names) - len(self.new_class_names)

    @property
    def training_images(self) -> ImageDataset:
        """All that the session trains on: `train`, and behind it what a memory has of earlier sessions. Sample ids are unique in it."""
        return self.train if self.joined_images is None else self.joined_images

    @property
    def own(self) -> range:
        """Positions of the classes that the session teaches: the new ones; where it brings none, all so far."""
        return range(self.first_new_class if self.new_class_names else 0, len(self.class_names))

    def steps_per_epoch(self, batch_size: int | None = None) -> int:
        """Optimizer steps of one epoch over `train` and what is shuffled in with it; the last, smaller batch counts.

        `batch_size`: of a phase that has its own (`Phase.batch_size`); None: the run's.

        Raises ValueError where the session does not come from the loop, so that nobody has said how large a batch is.
        """
        size = batch_size or self.batch_size
        if size is None:
            raise ValueError(
                f"Session {self.id} has no batch_size yet; the loop fills it in. Outside of it: replace(session, batch_size=N)."
            )
        return math.ceil((len(self.train) + self.joined) / size)


class Scenario(Protocol):
    """The sessions in order, and the `protocol` entry of results.json that says how they were made.

    `hf_cl.scenarios.SessionStream` is one; a stream of your own needs no more than these members.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """By position: the classes of all sessions in order of arrival, then those that tests name and no session teaches."""
        ...

    @property
    def protocol(self) -> Mapping[str, Any]: ...
    def __iter__(self) -> Iterator[Session]: ...
