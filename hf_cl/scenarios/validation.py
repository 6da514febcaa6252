"""The data is looked at once, in full, before anything trains."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from hf_cl.errors import DataError, first_ten
from hf_cl.scenarios.image_set import NO_LABEL, ImageSet
from hf_cl.scenarios.picture_check import UnreadableImage, check_pictures
from hf_cl.scenarios.splits import Splits

logger = logging.getLogger(__name__)


def validate(
    name: str,
    splits: Splits,
    *,
    skip_bad_images: bool,
    check: Callable[[ImageSet], Sequence[UnreadableImage]] = check_pictures,
    taught: Collection[str] = (),
) -> Splits:
    """The images of `splits` that can be used, or one error that lists everything wrong.

    Looked for: images that cannot be decoded, images whose label is missing or no class, classes without images (in a data set of one
    split: with fewer than two, since it is parted into training and test images), class names that are empty or occur twice.
    A "validation" split may lack classes.

    Args:
        name: of the data set, for messages.
        splits: as a reader gave them: "train" and "test", perhaps "validation"; or one split of any name.
        skip_bad_images: drop such images and classes with a logged warning. Class names that occur twice stay an error.
        check: finds the unreadable images of a set. A launcher of several processes may let one look and tell the others.
        taught: classes that a run which goes on has learned: they need images to test on, but none to train on.

    Raises DataError: the counts, the first ten of each kind, and the option that decides.
    """
    problems: list[str] = []
    kept = {}
    test = splits.images.get("test")
    if test is not None and len(test) and (test.labels == NO_LABEL).all():
        raise DataError(f"{name}: none of the images to test on has a label. Name another split with --test_split.")
    for split, images in splits.images.items():
        kept[split], found = _usable(split, images, len(splits.class_names), check)
        problems += found
    lacking = _lacking_classes(kept, splits.class_names, taught)
    for split, labels in lacking.items():
        number = "fewer than 2" if len(kept) == 1 else "no"
        classes = "1 class has" if len(labels) == 1 else f"{len(labels)} classes have"
        problems.append(f"{split}: {classes} {number} images: {first_ten(repr(splits.class_names[c]) for c in labels)}")
    names = _bad_names(splits.class_names)
    if not names:
        _warn_of_misspelled(name, splits.class_names)
    if problems and not names and skip_bad_images:
        logger.warning("%s: left out because of --skip_bad_images:\n  %s", name, "\n  ".join(problems))
        return _without_classes(name, kept, splits.class_names, {label for labels in lacking.values() for label in labels})
    if problems or names:
        left_out = "these images and classes" if lacking else "these images"
        skipping = [f"--skip_bad_images leaves {left_out} out and goes on."] if problems and not skip_bad_images else []
        raise DataError("\n  ".join([f"{name} cannot be used as it is:", *problems, *names, *skipping]))
    return Splits(kept, splits.class_names)


def _usable(
    split: str, images: ImageSet, num_classes: int, check: Callable[[ImageSet], Sequence[UnreadableImage]]
) -> tuple[ImageSet, list[str]]:
    """The usable images of a split, and what is wrong with the others."""
    problems = []
    usable = np.ones(len(images), dtype=bool)
    if unreadable := list(check(images)):
        listed = first_ten(f"{bad.where} ({bad.cause})" for bad in unreadable)
        problems.append(f"{split}: {_counted(len(unreadable), 'unreadable image')}: {listed}")
        usable[[bad.position for bad in unreadable]] = False
    unlabelled = np.flatnonzero((images.labels < 0) | (images.labels >= num_classes))
    if len(unlabelled):
        listed = first_ten(_label_problem(images, position, num_classes) for position in unlabelled.tolist())
        problems.append(f"{split}: {_counted(len(unlabelled), 'image')} without a valid label: {listed}")
        usable[unlabelled] = False
    return images.subset(usable), problems


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _label_problem(images: ImageSet, position: int, num_classes: int) -> str:
    label = int(images.labels[position])
    reason = "no label" if label == NO_LABEL else f"label {label}, classes are 0..{num_classes - 1}"
    return f"{images.describe(position)} ({reason})"


def _lacking_classes(kept: Mapping[str, ImageSet], class_names: Sequence[str], taught: Collection[str]) -> dict[str, list[int]]:
    needed = 2 if len(kept) == 1 else 1
    lacking = {split: np.flatnonzero(images.counts(len(class_names)) < needed).tolist() for split, images in kept.items()}
    if "test" in kept and "train" in kept:
        lacking["train"] = [label for label in lacking["train"] if class_names[label] not in taught]
    return {split: labels for split, labels in lacking.items() if labels and (split != "validation" or len(kept) == 1)}


def _bad_names(class_names: Sequence[str]) -> list[str]:
    # two names that look alike would be one class in a text prompt and in every table
    looks = _alike(class_names, lambda name: unicodedata.normalize("NFC", name.strip()))
    twice = [" and ".join(map(_spelled, names)) for look, names in looks.items() if look and len(names) > 1]
    problems = [f"class names that look the same: {first_ten(twice)}; rename them"] if twice else []
    broken = [name for name in class_names if any("\ud800" <= character <= "\udfff" for character in name)]
    if broken:
        problems.append(
            f"{len(broken)} class names are no valid text (their folders are not named in UTF-8): {first_ten(broken)}; rename them"
        )
    return problems + (["a class has an empty name; rename it"] if "" in looks else [])


def _alike(class_names: Sequence[str], look: Callable[[str], str]) -> dict[str, list[str]]:
    """The names by what they look like."""
    found: dict[str, list[str]] = {}
    for name in class_names:
        found.setdefault(look(name), []).append(name)
    return found


def _spelled(name: str) -> str:
    """Between quotes, which show blanks; letters that are composed of several are written out."""
    return repr(name) if name == unicodedata.normalize("NFC", name) else ascii(name)


def _warn_of_misspelled(name: str, class_names: Sequence[str]) -> None:
    """Names that differ in case, blanks, hyphens and underscores alone are often one class."""
    looks = _alike(class_names, lambda class_name: re.sub(r"[\s_-]+", " ", class_name.strip()).casefold())
    near = [" and ".join(map(repr, names)) for names in looks.values() if len(names) > 1]
    if near:
        logger.warning("%s: classes with nearly the same name: %s. If one is meant, put their images together.", name, first_ten(near))


def _without_classes(name: str, kept: Mapping[str, ImageSet], class_names: tuple[str, ...], dropped: set[int]) -> Splits:
    remaining = [label for label in range(len(class_names)) if label not in dropped]
    if not remaining:
        raise DataError(f"{name}: no class is left after leaving out what --skip_bad_images allows.")
    new_labels = np.full(len(class_names), NO_LABEL)
    new_labels[remaining] = np.arange(len(remaining))
    images = {split: images.of_classes(remaining).relabel(new_labels) for split, images in kept.items()}
    return Splits(images, tuple(class_names[label] for label in remaining))
