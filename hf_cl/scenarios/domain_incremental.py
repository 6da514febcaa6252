"""Domain-incremental learning: the same classes in other pictures, one domain after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_cl.contracts import Session, Test
from hf_cl.errors import DataError, first_ten
from hf_cl.hints import nearest
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.stream import SessionStream, make_protocol


def domain_incremental(
    source: ImageSource,
    targets: Sequence[ImageSource] = (),
    class_order_seed: int = 0,
    *,
    domains: Sequence[str] | None = None,
    validation_fraction: float = 0.0,
) -> SessionStream:
    """Session 0 teaches one data set, each later one another with pictures of the same classes: photos, then sketches, then paintings.

    Classes are one where their names are the same. A later domain may lack classes, and may bring new ones, which follow in its own order.
    After each session all domains so far are tested, all classes seen compete, and nobody tells the model the domain of an image; losses
    and parts find it in `ctx.batch["domain"]`, numbered by session.

    Args:
        source: the first domain, with its class order; or one table of all of them, whose `domain_column` says which is which.
        targets: the others, in order, with different names; none beside a table of all.
        domains: of such a table, the domains that are taught, in order; None: all, in order of first appearance.
        class_order_seed: draws the own split of domains that have no test split, and the validation part.
        validation_fraction: share of each class's training images, in each domain, that leaves `Session.train`.

    Raises DataError for domains of one name, and classes too small to split; ValueError for no target, for domains that the data do not
    have, or a fraction that is none.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be at least 0 and below 1, got {validation_fraction}.")
    parts = _domains(source, targets, domains)
    names = [domain.name for domain in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"Domains must have different names; {first_ten(map(repr, twice))} occurs more than once.")
    position_of: dict[str, int] = {}
    sessions: list[Session] = []
    tests: list[tuple[str, ImageSet, tuple[int, ...]]] = []  # name, images, own classes
    validation: list[ImageSet] = []
    splits: list[str] = []
    for number, domain in enumerate(parts):
        drawn = domain.split_by(class_order_seed)
        known = tuple(position_of)
        positions = np.asarray([position_of.setdefault(name, len(position_of)) for name in drawn.class_names])
        drawn = replace(drawn, train=drawn.train.in_domain(number), test=drawn.test.in_domain(number))
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
                domain_names=tuple(names[: number + 1]),
            )
        )
    protocol = make_protocol(
        "domain_incremental",
        source.name,
        ", ".join(splits),
        num_base_classes=len(parts[0].class_names),
        classes_per_session=None,
        class_order_seed=class_order_seed,
        validation_fraction=validation_fraction,
        left_out_images=source.left_out_images + sum(target.left_out_images for target in targets),
        details={"domains": names},
    )
    held = [(name, images, own) for (name, _, own), images in zip(tests, validation, strict=False)]
    checks = tuple(_tests(held[: t + 1], len(session.class_names)) for t, session in enumerate(sessions)) if held else ()
    return SessionStream(tuple(sessions), tuple(position_of), protocol, checks)


def _domains(source: ImageSource, targets: Sequence[ImageSource], wanted: Sequence[str] | None) -> list[ImageSource]:
    """A source for each domain, in order."""
    if not source.domain_names:
        if wanted is not None:
            raise ValueError("domains are chosen among those of a table's column; name it: --domain_column style.")
        if not targets:
            raise ValueError(
                "domain_incremental needs the data sets of the later sessions: --targets sketches,paintings beside --dataset photos; or of "
                "one table the column that says the domain: --domain_column style."
            )
        return [source, *targets]
    if targets:
        raise ValueError("domain_incremental takes its domains from targets or from a domain_column; give one of them.")
    chosen = source.domain_names if wanted is None else tuple(map(str, wanted))
    for name in chosen:
        if name not in source.domain_names:
            known = first_ten(map(repr, source.domain_names))
            raise ValueError(f"domains: the data have no domain {name!r}; they have {known}.{nearest(name, source.domain_names)}")
    if len(chosen) < 2:
        raise ValueError(f"domain_incremental needs at least two domains, and there is {first_ten(map(repr, chosen))} alone.")
    return [_part(source, source.domain_names.index(name)) for name in chosen]


def _part(source: ImageSource, domain: int) -> ImageSource:
    """The images of one domain, with the classes that it trains on."""

    def of(images: ImageSet) -> ImageSet:
        return images.subset(images.domains == domain)

    taught = of(source.train if source.unsplit is None else source.unsplit)
    labels = np.unique(taught.labels)
    places = np.full(len(source.class_names), -1)
    places[labels] = np.arange(len(labels))
    images: dict[str, Any] = {
        key: None if found is None else of(found).of_classes(labels).relabel(places)
        for key, found in (("train", source.train), ("test", source.test), ("unsplit", source.unsplit), ("validation", source.validation))
    }
    names = tuple(source.class_names[label] for label in labels)
    return replace(source, name=source.domain_names[domain], class_names=names, domain_names=(), **images)


def _tests(parts: Sequence[tuple[str, ImageSet, tuple[int, ...]]], seen: int) -> tuple[Test, ...]:
    """One test per domain, all classes seen competing; task-aware accuracy chooses among the domain's own."""
    candidates = tuple(range(seen))
    return tuple(Test(name, images, candidates, own) for name, images, own in parts)
