"""Few-shot class-incremental learning: a handful of images of each new class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_cl.scenarios.class_order import resolve_class_order
from hf_cl.scenarios.draws import check_fraction, check_shots, draw_shots
from hf_cl.scenarios.growth import grown_order
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.session_lists import SessionLists, read_session_lists
from hf_cl.scenarios.shot_lists import read_shot_list
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.stream import (
    SessionStream,
    by_session,
    cumulative_tests,
    cut,
    in_order,
    make_protocol,
    make_sessions,
    session_sizes,
)

OWN_DRAW: Mapping[str, str | None] = {"kind": "own_draw", "sha256": None}


def check_one_order(index_list: str | os.PathLike[str] | None, class_order: str | os.PathLike[str]) -> None:
    """Raise ValueError for an order of classes beside lists of FSCIL, which bring theirs."""
    if index_list is not None and class_order != "natural":
        raise ValueError(f"index_list brings the order of classes with it, and class_order is {str(class_order)!r}; leave one of them out.")


def few_shot_class_incremental(
    source: ImageSource,
    num_base_classes: int,
    classes_per_session: int,
    shots: int,
    *,
    class_order: str | os.PathLike[str] = "natural",
    class_order_seed: int = 0,
    index_list: str | os.PathLike[str] | None = None,
    validation_fraction: float = 0.0,
    taught: Sequence[Sequence[str]] = (),
) -> SessionStream:
    """FSCIL (Tao et al. 2020): session 0 teaches its classes on all their images, each later one on `shots` images per class.

    The classes arrive in label order, as in the papers, unless `class_order` says another. CIFAR-100 and miniImageNet are (60, 5, shots=5),
    CUB-200 is (100, 10, shots=5).

    Args:
        source: from `open_images`.
        num_base_classes: classes of session 0.
        classes_per_session: classes of each later session; a remainder is a last, smaller session.
        shots: training images per class of the later sessions.
        class_order: as in `class_incremental`; the shots of a class are the same in every order.
        class_order_seed: draws the shots, the order where it is `seed`, and the test part where the data set has none.
        index_list: a folder with `session_1.txt` ... (or its subfolder named after the data set) that lists the training images of every
            session instead; the standard lists are recognised. Lists bring the order of classes with them.
        validation_fraction: share of each class's training images, its shots (at least one), that leaves `Session.train`.
        taught: class names of the sessions that a run which goes on has begun: they keep places and shots, new classes come behind them.

    Raises DataError for faulty lists and for classes with fewer images than shots, ValueError for sizes, shots or orders that are none, and
    for an order beside lists.
    """
    check_shots(shots)
    check_fraction(validation_fraction)
    check_one_order(index_list, class_order)
    source = source.split_by(class_order_seed, new_to_test=0.0)
    count = len(source.class_names)
    sizes = session_sizes(count, min(num_base_classes, count) if taught else num_base_classes, classes_per_session)
    if index_list is None:
        order = resolve_class_order(source.class_names, class_order, class_order_seed)
        if taught:
            order, sizes = grown_order(source.class_names, order, taught, classes_per_session)
        lists = _own_draw(source, order, sizes, shots, class_order_seed, taught)
    else:
        lists = read_session_lists(source, index_list, sizes, shots)
    protocol = make_protocol(
        "few_shot_class_incremental",
        source.name,
        source.test_split,
        num_base_classes=num_base_classes,
        classes_per_session=classes_per_session,
        shots=shots,
        class_order=Path(class_order).name if index_list is None or (np.diff(lists.order) > 0).all() else "index_list",
        class_order_seed=class_order_seed,
        index_list=lists.identity,
        validation_fraction=validation_fraction,
        left_out_images=source.left_out_images,
    )
    return _stream(source, lists.train, lists.order, sizes, protocol)


def few_shot_class_incremental_tuning(
    source: ImageSource,
    num_base_classes: int,
    classes_per_session: int,
    shots: int = 10,
    *,
    class_order: str | os.PathLike[str] = "natural",
    class_order_seed: int = 0,
    index_list: str | os.PathLike[str] | None = None,
    validation_fraction: float = 0.0,
    taught: Sequence[Sequence[str]] = (),
) -> SessionStream:
    """FSCIT, the protocol of CoACT: as `few_shot_class_incremental`, but session 0 has `shots` images per class like every other.

    Args:
        source: from `open_images`; CoACT tests on the validation split where a data set has one (`test_split="validation"`).
        num_base_classes: classes of session 0.
        classes_per_session: classes of each later session.
        shots: training images per class.
        class_order: as in `class_incremental`; the shots of a class are the same in every order.
        class_order_seed: draws the shots, the order where it is `seed`, and the test part where the data set has none.
        index_list: a folder with `<data set>.txt`, `<class> <image>` per line, whose first `shots` images per class are taken instead.
        validation_fraction: share of each class's shots (at least one) that leaves `Session.train`.
        taught: as in `few_shot_class_incremental`.

    Raises DataError for a faulty list and for classes with fewer images than shots, ValueError for sizes, shots or orders that are none.
    """
    check_shots(shots)
    check_fraction(validation_fraction)
    source = source.split_by(class_order_seed, new_to_test=0.0)
    count = len(source.class_names)
    sizes = session_sizes(count, min(num_base_classes, count) if taught else num_base_classes, classes_per_session)
    order = resolve_class_order(source.class_names, class_order, class_order_seed)
    if index_list is None:
        if taught:
            order, sizes = grown_order(source.class_names, order, taught, classes_per_session)
        images, identity = _shots(source, shots, class_order_seed, order, taught), OWN_DRAW
    else:
        images, identity = read_shot_list(source, index_list, shots)
    protocol = make_protocol(
        "few_shot_class_incremental_tuning",
        source.name,
        source.test_split,
        num_base_classes=num_base_classes,
        classes_per_session=classes_per_session,
        shots=shots,
        class_order=Path(class_order).name,
        class_order_seed=class_order_seed,
        index_list=identity,
        validation_fraction=validation_fraction,
        left_out_images=source.left_out_images,
    )
    return _stream(source, [images.of_classes(labels) for labels in cut(order, sizes)], order, sizes, protocol)


def _own_draw(
    source: ImageSource, order: NDArray[np.int64], sizes: list[int], shots: int, seed: int, taught: Sequence[Sequence[str]]
) -> SessionLists:
    base, later = order[: sizes[0]], cut(order, sizes)[1:]
    train = [source.train.of_classes(base)]
    if later:
        drawn = _shots(source, shots, seed, np.concatenate(later), taught)
        train += [drawn.of_classes(labels) for labels in later]
    return SessionLists(train, order, OWN_DRAW)


def _shots(source: ImageSource, shots: int, seed: int, labels: NDArray[np.int64], taught: Sequence[Sequence[str]]) -> ImageSet:
    """`draw_shots` of the classes; of those that a run has taught, the pictures that it took, in their order."""
    names = source.class_names
    if source.known is None or not taught:
        return draw_shots(source.train, shots, seed, labels, names)
    begun = {name for session in taught for name in session}
    new = [label for label in labels.tolist() if names[label] not in begun]
    taken = [p for p in source.known.trained(source.train, len(taught)) if source.train.labels[p] in labels]
    fresh = draw_shots(source.train, shots, seed, new, names).indices if new else np.zeros(0, np.int64)
    place = {int(index): position for position, index in enumerate(source.train.indices)}
    return source.train.subset([*taken, *(place[int(index)] for index in fresh)])


def _stream(
    source: ImageSource, train: Sequence[ImageSet], order: NDArray[np.int64], sizes: list[int], protocol: dict[str, Any]
) -> SessionStream:
    """Of the images of each session."""
    class_names = tuple(source.class_names[label] for label in order)
    held_out: list[ImageSet] = []
    if fraction := protocol["validation_fraction"]:
        parted = [source.part_with(images, fraction, "validation", protocol["class_order_seed"]) for images in train]
        train, held_out = ([pair[side] for pair in parted] for side in (0, 1))
    train, held_out = ([in_order(images, order) for images in part] for part in (train, held_out))
    sessions = make_sessions(class_names, sizes, train, by_session(source.test, order, sizes), held_out)
    return SessionStream(sessions, class_names, protocol, cumulative_tests(held_out, sizes) if held_out else ())
