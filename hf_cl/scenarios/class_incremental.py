"""Class-incremental learning: new classes in every session, all of their images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from hf_cl.contracts import Session
from hf_cl.scenarios.class_order import resolve_class_order
from hf_cl.scenarios.draws import check_fraction, permutation
from hf_cl.scenarios.growth import Arrivals, check_record, grown_order
from hf_cl.scenarios.ordered import ordered_sessions
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.split_lists import split_by_lists
from hf_cl.scenarios.stream import SessionStream, cumulative_tests, in_order, make_protocol, make_sessions, session_sizes


def class_incremental(
    source: ImageSource,
    num_base_classes: int,
    classes_per_session: int,
    class_order: str | os.PathLike[str] = "seed",
    class_order_seed: int = 0,
    *,
    online: bool = False,
    validation_fraction: float = 0.0,
    index_list: str | os.PathLike[str] | None = None,
    taught: Sequence[Sequence[str]] = (),
    session_from: Literal["new_classes", "new_pictures"] = "new_classes",
) -> SessionStream:
    """Session 0 teaches `num_base_classes` classes, each later one `classes_per_session`; a remainder is a last, smaller session.

    "B0 Inc10" of the literature is (10, 10), "B50 Inc5" is (50, 5). The stream is a pure function of the images and these arguments.

    Args:
        source: from `open_images`. Where it has no test split, 20% of each class's images, drawn by `class_order_seed`, are tested on.
        num_base_classes: classes of session 0.
        classes_per_session: classes of each later session.
        class_order: `natural`, `seed`, `pycil`, `coda` or a file (`resolve_class_order`).
        class_order_seed: governs the order, own splits and the validation part; the run's seed governs none of them.
        online: one pass over each session's images in an order drawn by `class_order_seed`; only classes that have come compete, and they
            count in order of first appearance.
        validation_fraction: share of each class's training images (at least one) that leaves `Session.train`. The tests stay the test
            images; `stream.validation[t]` holds tests of the same names and candidates on the validation images.
        taught: class names of the sessions that a run which goes on has begun: they keep their places, whatever the order says.
        session_from: `new_pictures`: training pictures of taught classes that no session has had make a session of their own, behind those
            that the run has begun and before new classes. Else they are left alone.
        index_list: a folder with `train.txt` and `test.txt`, which then part a data set of one split (ImageNet-R).

    Raises DataError for a class too small to split, for faulty lists, and for `new_pictures` where the run has no record of its pictures;
    ValueError for sizes, orders or fractions that are none.
    """
    check_fraction(validation_fraction)
    count = len(source.class_names)
    sizes = session_sizes(count, min(num_base_classes, count) if taught else num_base_classes, classes_per_session)
    order = resolve_class_order(source.class_names, class_order, class_order_seed)
    if taught:
        order, sizes = grown_order(source.class_names, order, taught, classes_per_session)
    source, lists = (source.split_by(class_order_seed), None) if index_list is None else split_by_lists(source, index_list)
    train, validation = source.train, None
    if validation_fraction:
        train, validation = source.part_with(train, validation_fraction, "validation", class_order_seed)
    if online and (validation_fraction or session_from == "new_pictures"):
        raise ValueError("An online stream holds no validation images out and makes no session of new pictures; leave these settings out.")
    arrivals = Arrivals(order, sizes, source.known, len(taught))
    if session_from == "new_pictures":
        check_record(source.known, taught)
        arrivals = arrivals.with_new_pictures(train)
    class_names, sizes = tuple(source.class_names[label] for label in order), arrivals.sizes
    held_out = [] if validation is None else arrivals.by_session(validation, "validation")
    protocol = make_protocol(
        "class_incremental",
        source.name,
        source.test_split,
        num_base_classes=num_base_classes,
        classes_per_session=classes_per_session,
        class_order=Path(class_order).name,
        class_order_seed=class_order_seed,
        index_list=lists,
        validation_fraction=validation_fraction,
        left_out_images=source.left_out_images,
        details={"online": True} if online else None,
    )
    if online:
        drawn = enumerate(arrivals.by_session(train, "train"))
        stream = [images.subset(permutation(len(images), "stream", class_order_seed, t)) for t, images in drawn]
        places, sessions = ordered_sessions(class_names, stream, in_order(source.test, order))
        return SessionStream(in_domains(sessions, source), tuple(class_names[place] for place in places), protocol, ())
    parts = arrivals.by_session(train, "train"), arrivals.by_session(source.test, "test")
    sessions = make_sessions(class_names, sizes, *parts, held_out)
    checks = cumulative_tests(held_out, sizes) if held_out else ()
    return SessionStream(in_domains(sessions, source), class_names, protocol, checks)


def in_domains(sessions: tuple[Session, ...], source: ImageSource) -> tuple[Session, ...]:
    """The sessions, of which each may have images of every domain that a column of the source names."""
    return tuple(replace(session, domain_names=source.domain_names) for session in sessions)
