"""One session, then tests on what it did not teach: novel classes, or other data sets. For heads that can name unseen classes.

In all three, `Session.class_names` are the classes that are taught. `stream.class_names` goes on with the classes that tests alone name;
the labels and candidates of a test are positions in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_cl.contracts import Session, Test
from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.draws import check_fraction, draw_shots
from hf_cl.scenarios.few_shot import OWN_DRAW
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.sources import ImageSource
from hf_cl.scenarios.stream import SessionStream, make_protocol

VALIDATION_SHOTS = 4
ALL_IMAGES = "all images"


def base_to_novel(source: ImageSource, shots: int = 16, class_order_seed: int = 0, *, validation_fraction: float = 0.0) -> SessionStream:
    """Base-to-novel generalisation (CoCoOp, Zhou et al. 2022): train on the first ceil(C/2) classes, test on both halves apart.

    The one session has the tests "base", among the base classes only, and "novel", among the novel classes only. The halves follow label
    order and do not depend on the seed. `stream.validation[0]` is a test "base" on images held out: a share of the shots with
    `validation_fraction`, else, where the data set has a validation split, min(shots, 4) of its images per base class.

    Args:
        source: from `open_images`, with at least two classes.
        shots: training images per base class.
        class_order_seed: draws the shots, and the test part where the data set has none; the literature averages over 1, 2, 3.
        validation_fraction: share of each class's shots (at least one) that leaves `Session.train`.

    Raises DataError for classes with fewer images than shots, ValueError for shots below 1 and a fraction that is none.
    """
    check_fraction(validation_fraction)
    num_classes = len(source.class_names)
    if num_classes < 2:
        raise DataError(f"{source.name!r} has {num_classes} class; base-to-novel needs two halves.")
    source = source.split_by(class_order_seed)
    num_base = (num_classes + 1) // 2
    base, novel = np.arange(num_base), np.arange(num_base, num_classes)
    train = draw_shots(source.train, shots, class_order_seed, base, source.class_names)
    tests = (_test("base", source.test.of_classes(base), base), _test("novel", source.test.of_classes(novel), novel))
    held_out, validation = None, ()
    if validation_fraction:
        train, held_out = source.part_with(train, validation_fraction, "validation", class_order_seed)
    elif source.validation is not None:
        held_out = draw_shots(source.validation, min(shots, VALIDATION_SHOTS), class_order_seed, base, source.class_names)
    if held_out is not None:
        validation = ((_test("base", held_out, base),),)
    protocol = make_protocol(
        "base_to_novel",
        source.name,
        source.test_split,
        num_base_classes=num_base,
        classes_per_session=num_classes - num_base,
        class_order_seed=class_order_seed,
        shots=shots,
        index_list=OWN_DRAW,
        validation_fraction=validation_fraction,
        left_out_images=source.left_out_images,
    )
    names = source.class_names[:num_base]
    return SessionStream((Session(0, names, names, train, tests, held_out),), source.class_names, protocol, validation)


def cross_dataset(
    source: ImageSource, targets: Sequence[ImageSource], shots: int = 16, class_order_seed: int = 0, *, validation_fraction: float = 0.0
) -> SessionStream:
    """Train on all classes of one data set, test on others (CoCoOp's cross-dataset transfer).

    One `Test` per target, called by its name; the target's own classes compete. A class name that occurs in several data sets is one class
    of the stream. A target without a test split is tested on all of its images, since none of them is trained on. The source's own test
    images are not among the tests; give it as a target, too, to have them.

    Args:
        source: what is trained on.
        targets: what is tested on, with different names.
        shots: training images per class.
        class_order_seed: draws the shots.
        validation_fraction: share of each class's shots (at least one) that leaves `Session.train`.

    Raises DataError for classes with fewer images than shots and for targets of the same name, ValueError for no targets.
    """
    return _transfer("cross_dataset", source, targets, shots, class_order_seed, validation_fraction)


def domain_generalization(
    source: ImageSource, targets: Sequence[ImageSource], shots: int = 16, class_order_seed: int = 0, *, validation_fraction: float = 0.0
) -> SessionStream:
    """Train on all classes of one data set, test on other pictures of the same classes (ImageNet: -V2, -Sketch, -A, -R).

    As `cross_dataset`, but every class of a target must be one of the source's, by name; a target may have fewer, and only those compete.

    Raises DataError for a class of a target that the source does not have, and as `cross_dataset`.
    """
    taught = set(source.class_names)
    for target in targets:
        if foreign := [repr(name) for name in target.class_names if name not in taught]:
            raise DataError(
                f"{len(foreign)} classes of {target.name!r} are no classes of {source.name!r}: {first_ten(foreign)}. "
                "Give both the same class names, or use cross_dataset."
            )
    return _transfer("domain_generalization", source, targets, shots, class_order_seed, validation_fraction)


def _transfer(
    name: str, source: ImageSource, targets: Sequence[ImageSource], shots: int, seed: int, validation_fraction: float
) -> SessionStream:
    check_fraction(validation_fraction)
    if not targets:
        raise ValueError(f"{name} needs at least one target to test on.")
    names = [target.name for target in targets]
    if twice := sorted({target for target in names if names.count(target) > 1}):
        raise DataError(f"Targets must have different names; {first_ten(map(repr, twice))} occurs more than once.")
    source = source.split_by(seed)
    held_out = {target.name: _target_images(source, target) for target in targets}
    order = np.arange(len(source.class_names))
    train = draw_shots(source.train, shots, seed, order, source.class_names)
    part = None
    if validation_fraction:
        train, part = source.part_with(train, validation_fraction, "validation", seed)
    position_of = {class_name: position for position, class_name in enumerate(source.class_names)}
    tests = []
    for target in targets:
        positions = np.asarray([position_of.setdefault(class_name, len(position_of)) for class_name in target.class_names])
        tests.append(_test(target.name, held_out[target.name][0].relabel(positions), positions))
    protocol = make_protocol(
        name,
        source.name,
        ", ".join(f"{target}: {split}" for target, (_, split) in held_out.items()),
        num_base_classes=len(source.class_names),
        classes_per_session=None,
        class_order_seed=seed,
        shots=shots,
        index_list=OWN_DRAW,
        validation_fraction=validation_fraction,
        left_out_images=sum({opened.name: opened.left_out_images for opened in (source, *targets)}.values()),
    )
    session = Session(0, source.class_names, source.class_names, train, tuple(tests), part)
    validation = () if part is None else ((_test(source.name, part, order),),)
    return SessionStream((session,), tuple(position_of), protocol, validation)


def _target_images(source: ImageSource, target: ImageSource) -> tuple[ImageSet, str]:
    """A target's test images, and what they are. The source as its own target keeps to the source's split."""
    if target.unsplit is None:
        return target.test, target.test_split
    if target.unsplit is source.unsplit:
        return source.test, source.test_split
    if target.name == source.name:  # opened twice, it would be tested on its training images
        raise DataError(
            f"A target is called {target.name!r} like the source. Give the same ImageSource twice, or another name to one of them."
        )
    return target.unsplit, ALL_IMAGES


def _test(name: str, images: ImageSet, candidates: np.ndarray) -> Test:
    return Test(name, images, tuple(candidates.tolist()))
