"""The same picture more than once in a stream, pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_cl.errors import first_ten
from hf_cl.scenarios.catalog import Catalog
from hf_cl.scenarios.pixel_digests import UNKNOWN


@dataclass(frozen=True)
class Copies:
    """Pictures, by their numbers in the catalog, that have copies."""

    groups: tuple[tuple[int, ...], ...]
    """Equal pictures, two or more in each group."""
    leaks: tuple[tuple[int, int], ...]
    """(test picture, a training picture that is the same) for each test picture that has one; what is held out for validation counts as
    trained on, since it chooses."""
    two_labels: tuple[tuple[int, ...], ...]
    """The groups whose pictures stand under several labels."""
    repeated: int
    """Training pictures beyond the first of each group."""
    in_several_sessions: int
    """Groups whose training pictures stand in several sessions."""

    def __bool__(self) -> bool:
        return bool(self.groups)


def find_copies(pictures: Catalog) -> Copies:
    """Groups of pictures with one digest. Pictures that nobody has decoded (`--check_images none`) have no copies."""
    known = np.flatnonzero((pictures.digests != UNKNOWN).any(axis=1))
    _, group, sizes = np.unique(pictures.digests[known], axis=0, return_inverse=True, return_counts=True)
    group = group.reshape(-1)
    several = np.flatnonzero(sizes[group] > 1)
    order = several[np.argsort(group[several], kind="stable")]
    pieces = np.split(known[order], np.flatnonzero(np.diff(group[order])) + 1) if len(order) else []
    return copies_of([piece.tolist() for piece in pieces], pictures)


def copies_of(groups: Sequence[Sequence[int]], pictures: Catalog) -> Copies:
    """What groups of equal pictures mean for a stream."""
    leaks: list[tuple[int, int]] = []
    repeated = sessions = 0
    for group in groups:
        trained = [number for number in group if not pictures.tested[number]]
        leaks += [(number, trained[0]) for number in group if trained and pictures.tested[number]]
        repeated += max(0, len(trained) - 1)
        sessions += len({int(pictures.session[number]) for number in trained}) > 1
    ordered = tuple(sorted(tuple(sorted(group)) for group in groups))
    two_labels = tuple(group for group in ordered if len({int(pictures.labels[number]) for number in group}) > 1)
    return Copies(ordered, tuple(sorted(leaks)), two_labels, repeated, sessions)


def copy_sentences(copies: Copies, pictures: Catalog) -> list[str]:
    """What is wrong, a sentence each, with names of the first ones; nothing where no picture stands twice."""
    sentences: list[str] = []
    if copies.leaks:
        pairs = first_ten(f"{pictures.name(test)} = {pictures.name(train)}" for test, train in copies.leaks)
        total = int(pictures.tested.sum())
        sentences.append(
            f"{_counted(len(copies.leaks), 'test picture')} of {total} {_are(copies.leaks)} also trained on, pixel by pixel, so accuracy "
            f"on them says nothing: {pairs}."
        )
    if copies.two_labels:
        listed = first_ten(
            " = ".join(f"{pictures.name(number)} ({pictures.class_names[pictures.labels[number]]})" for number in group[:4])
            for group in copies.two_labels
        )
        sentences.append(f"{_counted(len(copies.two_labels), 'picture')} {_stand(copies.two_labels)} under several labels: {listed}.")
    if copies.repeated:
        verb = "repeats" if copies.repeated == 1 else "repeat"
        more = f", {copies.in_several_sessions} of them in several sessions" if copies.in_several_sessions else ""
        sentences.append(f"{_counted(copies.repeated, 'training picture')} {verb} another one{more}.")
    return sentences


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _are(found: Sequence[object]) -> str:
    return "is" if len(found) == 1 else "are"


def _stand(found: Sequence[object]) -> str:
    return "stands" if len(found) == 1 else "stand"
