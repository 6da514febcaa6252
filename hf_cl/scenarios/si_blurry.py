"""Si-Blurry: an online stream whose sessions blur into each other.

Moon, Park, Kim, Park: "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual Prompt Tuning", ICCV 2023,
arXiv 2308.09303. The stream equals that of the authors' sampler (github.com/moonjunyyy/Si-Blurry, GPL-3: read, not copied) index by index.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.ordered import ordered_sessions
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.stream import SessionStream, make_protocol

logger = logging.getLogger(__name__)


class Blurred(NamedTuple):
    """The stream by positions in the data set."""

    disjoint: list[list[int]]
    """Of each session, the classes that occur in it alone."""
    blurry: list[list[int]]
    """Of each session, the classes of which a share of the images is scattered over others."""
    indices: list[list[int]]
    """Of each session, its images in their order."""
    lost: int
    """Images that dealing back in equal parts leaves over; none where sessions vary."""


def blurred(
    targets: Sequence[int], num_classes: int, num_sessions: int, disjoint_percent: int, blurry_percent: int, varying: bool, seed: int
) -> Blurred:
    """Which images come when. One generator draws everything, in the order of the authors' code.

    Args:
        targets: class of each image, in the data set's order.
        num_classes: C; of these C N / 100 (rounded down to equal groups) are disjoint, and of the rest as many as make equal groups blurry.
        num_sessions: S.
        disjoint_percent: N.
        blurry_percent: M, share of the images of blurry classes that is scattered.
        varying: sessions differ in classes and images by random cuts; else they are equal.
        seed: of the generator.
    """
    g, S = torch.Generator().manual_seed(seed), num_sessions
    order = torch.randperm(num_classes, generator=g).tolist()
    num_disjoint = num_classes * disjoint_percent // 100 // S * S
    num_blurry = (num_classes - num_disjoint) // S * S
    groups = []
    for part in (order[:num_disjoint], order[num_disjoint : num_disjoint + num_blurry]):
        groups.append(_parted(part, _cuts(len(part), S, varying, g)))
    disjoint, blurry = groups
    session_of = {label: s for kind in groups for s, part in enumerate(kind) for label in part}
    scattered = {label for part in blurry for label in part}
    fixed: list[list[int]] = [[] for _ in range(S)]
    loose: list[list[int]] = [[] for _ in range(S)]
    for position, label in enumerate(targets):
        if label in session_of:
            (loose if label in scattered else fixed)[session_of[label]].append(position)
    loose, lost = _dealt(loose, blurry_percent, varying, g)
    both = [a + b for a, b in zip(fixed, loose, strict=True)]
    indices = [[images[i] for i in torch.randperm(len(images), generator=g).tolist()] for images in both]
    return Blurred(disjoint, blurry, indices, lost)


def _cuts(count: int, sessions: int, varying: bool, g: torch.Generator) -> list[int]:
    """Bounds of consecutive groups, [S + 1]; random ones may fall together."""
    if not varying or count == 0:
        return [count // sessions * s for s in range(sessions)] + [count]
    return [0, *sorted(torch.randint(0, count, (sessions - 1,), generator=g).tolist()), count]


def _parted(items: list[int], bounds: list[int]) -> list[list[int]]:
    return [items[first:last] for first, last in pairwise(bounds)]


def _dealt(loose: list[list[int]], percent: int, varying: bool, g: torch.Generator) -> tuple[list[list[int]], int]:
    """Images of blurry classes after a share of them was taken out, shuffled and dealt back; and how many were lost in it."""
    sessions = len(loose)
    if varying:
        total = sum(map(len, loose)) * percent // 100
        if total == 0:
            return loose, 0
        bounds = _cuts(total, sessions, varying, g)
        wanted = [last - first for first, last in pairwise(bounds)]
    else:
        wanted = [len(images) * percent // 100 for images in loose]
    pool = [image for images, count in zip(loose, wanted, strict=True) for image in images[:count]]
    pool = [pool[i] for i in torch.randperm(len(pool), generator=g).tolist()]
    shares = wanted if varying else [len(pool) // sessions] * sessions
    dealt, first = [], 0
    for images, taken, share in zip(loose, wanted, shares, strict=True):
        dealt.append(images[taken:] + pool[first : first + share])
        first += share
    return dealt, max(0, len(pool) - first)


def si_blurry(
    source: ImageSource,
    num_sessions: int = 5,
    disjoint_percent: int = 50,
    blurry_percent: int = 10,
    varying: bool = True,
    class_order_seed: int = 1,
    drop_leftover: bool = False,
) -> SessionStream:
    """One pass over the data in a fixed order: some classes keep to one session, images of others are scattered over several.

    A session's images come as they stand, once, and only classes that have come compete (`Session.exposed`). Classes count in order of
    first appearance. A session is tested on the test images of the classes that it brings.

    Args:
        source: from `open_images`.
        num_sessions: of the stream.
        disjoint_percent: share of the classes that occur in one session only.
        blurry_percent: share of the other classes' images that is scattered.
        varying: sessions differ in size by random cuts, as in the published runs; else equal, and up to `num_sessions - 1` images are lost.
        class_order_seed: the seed of all draws, and of an own split.
        drop_leftover: leave out classes that make no equal groups, instead of refusing them.

    Raises ValueError for shares that are none, for left-over classes, and for a draw that leaves a session without images.
    """
    for name, value in (("disjoint_percent", disjoint_percent), ("blurry_percent", blurry_percent)):
        if not 0 <= value <= 100:
            raise ValueError(f"si_blurry: {name} must lie between 0 and 100, got {value}.")
    classes = len(source.class_names)
    if not 1 <= num_sessions <= classes:
        raise ValueError(f"si_blurry: num_sessions must lie between 1 and the data set's {classes} classes, got {num_sessions}.")
    source = source.split_by(class_order_seed)
    labels = source.train.labels.tolist()
    found = blurred(labels, classes, num_sessions, disjoint_percent, blurry_percent, varying, class_order_seed)
    kept = {label for kind in (found.disjoint, found.blurry) for part in kind for label in part}
    if absent := sorted(kept - set(labels)):
        raise DataError(f"{source.name}: no training image of {first_ten(source.class_names[label] for label in absent)}.")
    left = [source.class_names[label] for label in range(classes) if label not in kept]
    if left and not drop_leftover:
        raise ValueError(
            f"si_blurry: {classes} classes make no equal groups for {num_sessions} sessions: {first_ten(left)} would be left out. "
            "Choose another num_sessions, or say drop_leftover: true."
        )
    if empty := [str(s) for s, images in enumerate(found.indices) if not images]:
        raise ValueError(
            f"si_blurry: class_order_seed {class_order_seed} leaves session {', '.join(empty)} without images; take another seed, or fewer "
            "sessions."
        )
    if found.lost:
        logger.warning("si_blurry: %d images are left over when the scattered ones are dealt back, and are not used.", found.lost)
    order, sessions = ordered_sessions(source.class_names, [source.train.subset(images) for images in found.indices], source.test)
    digests = [hashlib.sha256(",".join(map(str, images)).encode()).hexdigest() for images in found.indices]
    details = {"num_sessions": num_sessions, "disjoint_percent": disjoint_percent, "blurry_percent": blurry_percent, "varying": varying}
    protocol = make_protocol(
        "si_blurry",
        source.name,
        source.test_split,
        num_base_classes=len(sessions[0].new_class_names),
        classes_per_session=None,
        class_order="seed",
        class_order_seed=class_order_seed,
        left_out_images=source.left_out_images,
        details={**details, "left_out_classes": len(left), "stream_sha256": digests},
    )
    return SessionStream(sessions, tuple(source.class_names[label] for label in order), protocol, ())
