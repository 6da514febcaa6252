"""Domain-incremental learning: the same classes in other pictures, one domain after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_cl.contracts import Session, Test
from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.stream import SessionStream, make_protocol


def domain_incremental(
    source: ImageSource, targets: Sequence[ImageSource], class_order_seed: int = 0, *, validation_fraction: float = 0.0
) -> SessionStream:
    """Session 0 teaches one data set, each later one another with pictures of the same classes: photos, then sketches, then paintings.

    Classes are one where their names are the same. A later domain may lack classes, and may bring new ones, which follow in its own order.
    After each session all domains so far are tested, all classes seen compete, and nobody tells the domain of an image.

    Args:
        source: the first domain, with its class order.
        targets: the others, in order, with different names.
        class_order_seed: draws the own split of domains that have no test split, and the validation part.
        validation_fraction: share of each class's training images, in each domain, that leaves `Session.train`.

    Raises DataError for domains of one name, and classes too small to split; ValueError for no target, or a fraction that is none.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    if not targets:
        raise ValueError(
            "domain_incremental needs the data sets of the later sessions: --targets sketches,paintings beside --dataset photos."
        )
    domains = [source, *targets]
    names = [domain.name for domain in domains]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Domains must have different names; {first_ten(map(repr, twice))} occurs more than once.")
    position_of: dict[str, int] = {}
    sessions: list[Session] = []
    tests: list[tuple[str, ImageSet, tuple[int, ...]]] = []  # name, images, own classes
    validation: list[ImageSet] = []
    splits: list[str] = []
    for number, domain in enumerate(domains):
        drawn = domain.split_by(class_order_seed)
        known = tuple(position_of)
        positions = np.asarray([position_of.setdefault(name, len(position_of)) for name in drawn.class_names])
        train, held_out = drawn.train, None
        if validation_fraction:
            train, held_out = drawn.part_with(train, validation_fraction, "validation", class_order_seed)
            validation.append(held_out.relabel(positions))
        tests.append((f"session-{number}", drawn.test.relabel(positions), tuple(sorted(positions.tolist()))))
        splits.append(f"{domain.name}: {drawn.test_split}")
        seen = tuple(position_of)
        sessions.append(
            Session(
                id=number,
                class_names=seen,
                new_class_names=seen[len(known) :],
                train=train.relabel(positions),
                tests=_tests(tests, len(seen)),
                validation=validation[-1] if held_out is not None else None,
            )
        )
    protocol = make_protocol(
        "domain_incremental",
        source.name,
        ", ".join(splits),
        num_base_classes=len(source.class_names),
        classes_per_session=None,
        class_order_seed=class_order_seed,
        validation_fraction=validation_fraction,
        left_out_images=sum(domain.left_out_images for domain in domains),
        details={"domains": names},
    )
    held = [(name, images, own) for (name, _, own), images in zip(tests, validation, strict=False)]
    checks = tuple(_tests(held[: t + 1], len(session.class_names)) for t, session in enumerate(sessions)) if held else ()
    return SessionStream(tuple(sessions), tuple(position_of), protocol, checks)


def _tests(parts: Sequence[tuple[str, ImageSet, tuple[int, ...]]], seen: int) -> tuple[Test, ...]:
    """One test per domain, all classes seen competing; task-aware accuracy chooses among the domain's own."""
    candidates = tuple(range(seen))
    return tuple(Test(name, images, candidates, own) for name, images, own in parts)
