"""What every function of this package returns: the sessions, with what results.json says about how they were made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cl.contracts import Session, Test
from hf_cl.scenarios.image_set import ImageSet


@dataclass(frozen=True)
class SessionStream:
    """Sessions in order; may be iterated again and gives the same objects. Fulfils `hf_cl.contracts.Scenario`."""

    sessions: tuple[Session, ...]
    class_names: tuple[str, ...]
    """By position: all classes of the stream in order of arrival, then those that tests name but no session teaches (base-to-novel)."""
    protocol: dict[str, Any]
    """`protocol` of results.json (`make_protocol`)."""
    validation: tuple[tuple[Test, ...], ...]
    """`validation[t]` has the form of `sessions[t].tests`, on images held out of training. Empty where nothing is held out."""
    whole: SessionStream | None = None
    """The stream that this one is a part of (`shortened`)."""

    def __iter__(self) -> Iterator[Session]:
        return iter(self.sessions)

    def __len__(self) -> int:
        return len(self.sessions)

    def shortened(self, sessions: int | None, *, on_validation: bool) -> SessionStream:
        """Its first sessions (None: all), and where `on_validation`, tested on what is held out of training: test images are left alone.

        Raises ValueError where nothing is held out.
        """
        if on_validation and not self.validation:
            raise ValueError("The stream holds no validation images out, so there are none to measure on.")
        kept = self.sessions[:sessions]
        if on_validation:
            kept = tuple(replace(session, tests=self.validation[session.id], validation=None) for session in kept)
        tested = {"test_split": "validation"} if on_validation else {}
        details = {**self.protocol["details"], "sessions": len(kept)} | ({"tested_on": "validation"} if on_validation else {})
        names = self.class_names[: len(kept[-1].class_names)] if len(kept) < len(self) else self.class_names
        return SessionStream(kept, names, {**self.protocol, **tested, "details": details}, (), whole=self)


def make_protocol(
    name: str,
    dataset: str,
    test_split: str,
    *,
    num_base_classes: int,
    classes_per_session: int | None,
    class_order_seed: int,
    class_order: str = "natural",
    shots: int | None = None,
    index_list: Mapping[str, str | None] | None = None,
    validation_fraction: float = 0.0,
    left_out_images: int,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`protocol` of results.json.

    `index_list`: kind (standard, custom, own_draw) and sha256; None where every image is used. `details`: what only this scenario has, in
    values that JSON can hold; runs are compared by it, and resumed with the same.
    """
    return {
        "name": name,
        "dataset": dataset,
        "num_base_classes": num_base_classes,
        "classes_per_session": classes_per_session,
        "shots": shots,
        "class_order": class_order,
        "class_order_seed": class_order_seed,
        "index_list": None if index_list is None else dict(index_list),
        "test_split": test_split,
        "validation_fraction": validation_fraction,
        "left_out_images": left_out_images,
        "details": dict(details or {}),
    }


def session_sizes(num_classes: int, num_base_classes: int, classes_per_session: int) -> list[int]:
    """Classes of each session: the base, then `classes_per_session` each; a remainder is a last, smaller session.

    Raises ValueError for sizes that make no session.
    """
    if num_base_classes == 0:
        raise ValueError(
            "num_base_classes is the size of session 0 and must be at least 1. "
            f'"B0 Inc{classes_per_session}" of the literature is num_base_classes={classes_per_session}.'
        )
    if not 1 <= num_base_classes <= num_classes:
        if num_classes == 1:
            raise ValueError(
                f"The data set has one class, and num_base_classes is {num_base_classes}. Is it the folder meant? Each class has a folder "
                "in it."
            )
        raise ValueError(f"num_base_classes must lie between 1 and the data set's {num_classes} classes, got {num_base_classes}.")
    if classes_per_session < 1:
        raise ValueError(f"classes_per_session must be at least 1, got {classes_per_session}.")
    rest = num_classes - num_base_classes
    sizes = [num_base_classes] + [classes_per_session] * (rest // classes_per_session)
    return [*sizes, rest % classes_per_session] if rest % classes_per_session else sizes


def cut(items: Any, sizes: Sequence[int]) -> list[Any]:
    """Consecutive pieces, of the given sizes, of a sequence or an array."""
    stops = np.cumsum(sizes).tolist()
    return [items[stop - size : stop] for size, stop in zip(sizes, stops, strict=True)]


def by_session(images: ImageSet, order: NDArray[np.int64], sizes: Sequence[int]) -> list[ImageSet]:
    """The images of each session's classes, labelled by position in `order`, [C]."""
    images = in_order(images, order)
    return divided(images, np.repeat(np.arange(len(sizes)), sizes)[images.labels], len(sizes))


def divided(images: ImageSet, session_of: NDArray[np.int64], sessions: int) -> list[ImageSet]:
    """The images of each of the `sessions`, in their order; `session_of` is [n]."""
    arrival = np.argsort(session_of, kind="stable")
    return [images.subset(piece) for piece in cut(arrival, np.bincount(session_of, minlength=sessions).tolist())]


def in_order(images: ImageSet, order: NDArray[np.int64]) -> ImageSet:
    """The images labelled by position in `order`, [C], instead of label order."""
    return images.relabel(np.argsort(order))


def cumulative_tests(parts: Sequence[ImageSet], sizes: Sequence[int]) -> tuple[tuple[Test, ...], ...]:
    """Tests after each session t: "session-j" for j = 0..t on `parts[j]`, all classes seen until then competing.

    One session's images are the same object in all later tests, so that what is computed on them once can be kept.
    """
    seen = [tuple(range(count)) for count in np.cumsum(sizes).tolist()]
    return tuple(tuple(Test(f"session-{j}", parts[j], seen[t]) for j in range(t + 1)) for t in range(len(sizes)))


def make_sessions(
    class_names: tuple[str, ...],
    sizes: Sequence[int],
    train: Sequence[ImageSet],
    test: Sequence[ImageSet],
    validation: Sequence[ImageSet] | None = None,
) -> tuple[Session, ...]:
    """The sessions of a class-incremental stream.

    Args:
        class_names: in order of arrival.
        sizes: classes of each session.
        train: training images of each session, labels being positions in `class_names`.
        test: test images of each session's own classes, labelled likewise.
        validation: images held out of `train`, where there are some.
    """
    sessions = []
    for t, (new, tests) in enumerate(zip(cut(class_names, sizes), cumulative_tests(test, sizes), strict=True)):
        seen = class_names[: sum(sizes[: t + 1])]
        held_out = validation[t] if validation else None
        sessions.append(Session(id=t, class_names=seen, new_class_names=new, train=train[t], tests=tests, validation=held_out))
    return tuple(sessions)
