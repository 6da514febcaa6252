"""A scenario: the user names the classes of every session."""

import numpy as np

from hf_cl.scenarios import DataError, SessionStream
from hf_cl.scenarios.stream import by_session, make_protocol, make_sessions


def grouped(source, groups):
    """One session per group of class names."""
    names = tuple(name for group in groups for name in group)
    if sorted(names) != sorted(source.class_names):
        raise DataError(f"The groups must name each class of {source.name!r} once: {', '.join(source.class_names)}.")
    source = source.split_by(0)  # where the data set has no test split of its own
    order, sizes = np.array([source.class_names.index(name) for name in names]), [len(group) for group in groups]
    train, test = (by_session(images, order, sizes) for images in (source.train, source.test))
    protocol = make_protocol(
        "grouped",
        source.name,
        source.test_split,
        num_base_classes=sizes[0],
        classes_per_session=None,
        class_order_seed=0,
        left_out_images=source.left_out_images,
    )
    return SessionStream(make_sessions(names, sizes, train, test), names, protocol, ())
