"""`open_images`: one way to any set of labelled images."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hf_cl.errors import DataError, exists, first_ten, no_such_dataset, refuse_two_meanings
from hf_cl.scenarios.digits import read_digits
from hf_cl.scenarios.draws import split_per_class, tracks_of
from hf_cl.scenarios.growth import KnownPictures, Side, keep_sides
from hf_cl.scenarios.hub import HubAddress, read_hub
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.local import read_local
from hf_cl.scenarios.picture_check import UnreadableImage, check_pictures
from hf_cl.scenarios.splits import Splits, of_kind
from hf_cl.scenarios.tables import Table
from hf_cl.scenarios.validation import validate

OWN_SPLIT = "own 80/20 split"
TEST_FRACTION = 0.2
DIGITS = "digits"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageSource:
    """The images that scenarios are cut from, checked; labels in label order of the data set."""

    name: str
    """As it was asked for; of a local folder its own name alone."""
    class_names: tuple[str, ...]
    """In label order."""
    train: ImageSet
    test: ImageSet
    test_split: str
    """What `test` is: a split of the data set, or "own 80/20 split"."""
    validation: ImageSet | None = None
    """The data set's own validation split, where it has one that is not tested on."""
    unsplit: ImageSet | None = None
    """All images, where the data set has no split of its own."""
    known: KnownPictures | None = None
    """The pictures of a run that goes on: they stay on the side where they were."""
    left_out_images: int = 0
    """How many images `skip_bad_images` left out."""
    domain_names: tuple[str, ...] = ()
    """By number, as `ImageSet.domains` has them, in order of first appearance; () where no column says them."""

    @property
    def short_name(self) -> str:
        """The name without owner, config and revision, lower case, with underscores: `cifar100`."""
        return short_name(self.name)

    def split_by(self, seed: int, new_to_test: float = TEST_FRACTION) -> ImageSource:
        """The same images with the own split drawn by `seed`; those of the data set's own splits where it has a test split.

        `new_to_test`: share of the new pictures of known classes that is tested on, where a run goes on; 0 for protocols that leave
        pictures out, which nothing tells from new ones.

        Per class 20% of the images, at least one, by `draws.permutation`; GTSRB by tracks. Where a run goes on, its known pictures stay
        on their side: of a split of the data set itself, what has changed sides is left out with a warning.

        Raises DataError for a class of one image.
        """
        if self.unsplit is None:
            return self if self.known is None else self._without_moved(self.known)
        drawn = own_split(self.name, self.class_names, self.unsplit, seed)
        if self.known is not None:
            test = np.isin(self.unsplit.indices, drawn.test.indices)
            tracks = tracks_of(self.unsplit, self.short_name)
            test = keep_sides(self.unsplit, test, self.known, "test", new_to_test, seed, tracks)
            drawn = replace(drawn, train=self.unsplit.subset(~test), test=self.unsplit.subset(test))
        return replace(drawn, left_out_images=self.left_out_images, known=self.known, domain_names=self.domain_names)

    def _without_moved(self, known: KnownPictures) -> ImageSource:
        train = _without(self.train, known, ("test",), f"{self.name}: pictures that were tested on are not trained on")
        test = _without(self.test, known, ("train", "validation"), f"{self.name}: pictures that were trained on are not tested on")
        return replace(self, train=train, test=test)

    def with_classes(self, names: Sequence[str]) -> ImageSource:
        """With the classes among `names` that the data have no image of, behind those they have."""
        missing = [name for name in names if name not in self.class_names]
        return replace(self, class_names=(*self.class_names, *missing))

    def part_with(self, images: ImageSet, fraction: float, purpose: Literal["validation"], seed: int) -> tuple[ImageSet, ImageSet]:
        """(rest, part) of its images, as `draws.split_per_class`; the known pictures of a run that goes on stay where they were."""
        tracks = tracks_of(images, self.short_name)
        rest, part = split_per_class(images, fraction, purpose, seed, class_names=self.class_names, tracks=tracks)
        if self.known is None:
            return rest, part
        held = keep_sides(images, np.isin(images.indices, part.indices), self.known, purpose, fraction, seed, tracks)
        return images.subset(~held), images.subset(held)


def _without(images: ImageSet, known: KnownPictures, sides: Collection[Side], sentence: str) -> ImageSet:
    moved = np.asarray([side in sides for side in known.sides_of(images)], dtype=bool)
    if moved.any():
        names = first_ten(images.describe(position) for position in np.flatnonzero(moved).tolist())
        logger.warning("%s: %d left out: %s.", sentence, int(moved.sum()), names)
    return images.subset(~moved)


def own_split(name: str, class_names: tuple[str, ...], images: ImageSet, seed: int) -> ImageSource:
    """A source whose training and test images are drawn from `images`, 80/20 per class."""
    tracks = tracks_of(images, short_name(name))
    train, test = split_per_class(images, TEST_FRACTION, "test", seed, class_names=class_names, tracks=tracks)
    return ImageSource(name, class_names, train, test, OWN_SPLIT, unsplit=images)


def short_name(name: str) -> str:
    """`uoft-cs/cifar100@main` -> `cifar100`."""
    address = HubAddress.parse(name)
    return normalized(address.id.rsplit("/", 1)[-1] if address else name)


def normalized(name: str) -> str:
    """Lower case with underscores, so that `Mini-ImageNet` and `mini_imagenet` meet."""
    return name.lower().replace("-", "_").replace(" ", "_")


def open_images(
    dataset: Any,
    *,
    name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    domain_column: str | None = None,
    test_split: str = "test",
    skip_bad_images: bool = False,
    taught: Collection[str] = (),
    check: Callable[[ImageSet], Sequence[UnreadableImage]] = check_pictures,
) -> ImageSource:
    """Open a set of labelled images and look at every one of them that has changed since it was last found whole.

    Args:
        dataset: one of
            - `digits`: 1,797 handwritten digits that come with scikit-learn;
            - a folder of images, `<class>/*.jpg`, or `train/<class>/*.jpg` and `test/<class>/*.jpg`, in any spelling of the splits;
            - a folder of images with `metadata.csv` or `metadata.jsonl` (columns `file_name` and label);
            - a table of paths and labels: CSV, TSV, JSON lines, parquet;
            - a folder (or file) of parquet or arrow with the images in it, split by file or folder name, or one that `datasets` saved;
            - a Hub id, `owner/name`, with `:config` and `@revision` where wanted;
            - a `Dataset` or `DatasetDict` of `datasets`, a pandas or polars DataFrame, a map-style torch data set of (PIL image, int) with
              `classes`, or a dict of these by split.
            A folder of that name goes before a Hub id.
        name: what results call the data; the folder's name, the Hub id or the object's type by default.
        image_column: needed where there is not exactly one column of images, or of paths of them.
        label_column: needed where there is not exactly one ClassLabel column, and none that is called label or class.
        domain_column: of a table, a column that says of which domain each picture is (photo, sketch, painting, ...).
        test_split: the split that is tested on.
        skip_bad_images: leave out what cannot be used, with a logged warning.
        taught: classes that a run which goes on has learned; where the data have a test split, their training images may be gone.
        check: finds unreadable images; `functools.partial(check_pictures, look=..., seen=..., progress=...)` says which are looked at, gets
            what was decoded, and shows how far it is.

    A data set of one split is parted into training and test images, 80/20 per class; scenarios draw that split by their class_order_seed
    (`ImageSource.split_by`), the source as returned by seed 0.

    Raises DataError, before anything trains: no such data set, no such column or split, and everything `validate` looks for.
    """
    found_name, splits = _read(dataset, name, image_column, label_column, domain_column, test_split)
    name = name or found_name
    if domain_column is not None and not splits.domain_names:
        raise DataError(f"{name!r} is no table with columns, so there is no domain_column {domain_column!r}; leave the setting out.")
    found = _named_splits(name, splits, test_split)
    usable = validate(name, found, skip_bad_images=skip_bad_images, check=check, taught=taught)
    images, left_out = usable.images, _count(found) - _count(usable)
    if len(images) == 1:
        source = own_split(name, usable.class_names, *images.values(), seed=0)
    else:
        source = ImageSource(name, usable.class_names, images["train"], images["test"], test_split, images.get("validation"))
    return replace(source, left_out_images=left_out, domain_names=splits.domain_names)


def _count(splits: Splits) -> int:
    return sum(len(images) for images in splits.images.values())


def _read(
    dataset: Any, name: str | None, image_column: str | None, label_column: str | None, domain_column: str | None, test_split: str
) -> tuple[str, Splits]:
    if not isinstance(dataset, (str, os.PathLike)):
        from hf_cl.scenarios.python_objects import read_object  # noqa: PLC0415 (datasets: photos in folders do not wait for it)

        name = name or type(dataset).__name__
        return name, read_object(name, dataset, image_column, label_column, domain_column)
    dataset = os.fspath(dataset)
    if not dataset:
        raise DataError("dataset is empty; give a folder, a Hub id, or digits.")
    path = Path(dataset).expanduser()
    if dataset == DIGITS:
        refuse_two_meanings(dataset, "the digits of scikit-learn")
        return dataset, read_digits()
    if exists(path):
        name = name or (path.resolve().stem if path.is_file() else path.resolve().name)
        return name, read_local(path, name, image_column, label_column, test_split, domain_column)
    address = HubAddress.parse(dataset)
    if address is None:
        raise DataError(no_such_dataset(dataset))
    from hf_cl.scenarios.columns import read_columns  # noqa: PLC0415

    tables = {split: [Table(rows)] for split, rows in read_hub(address).items()}
    return dataset, read_columns(dataset, tables, image_column, label_column, domain_column)


def _named_splits(name: str, splits: Splits, test_split: str) -> Splits:
    """The splits that are used, as "train", "test" and "validation"; or the only one under its own name."""
    found = splits.images
    if len(found) == 1 and (test_split == "test" or of_kind(found, test_split)):
        return splits
    tested = _one_split(name, found, "test_split", test_split, "Name the one to test on with --test_split.")
    train = _one_split(name, found, "train", "train", "A split 'train' is needed beside it.")
    if tested == train:
        raise DataError(f"{name!r}: test_split {test_split!r} would test on the training images.")
    used = {"train": found[train], "test": found[tested]}
    validation = next((split for split in of_kind(found, "validation") if split != tested), None)
    if validation is not None:
        used["validation"] = found[validation]
    if unused := [f"{split} ({len(found[split])} images)" for split in found if split not in (tested, train, validation)]:
        logger.warning("%s: splits that are not used: %s.", name, first_ten(unused))
    return Splits(used, splits.class_names)


def _one_split(name: str, found: Collection[str], option: str, wanted: str, hint: str) -> str:
    """The split that is called so, in any spelling."""
    split = of_kind(found, wanted)
    if not split:
        raise DataError(f"{name!r} has no split {wanted!r}; it has {', '.join(sorted(found))}. {hint}")
    if len(split) > 1:
        raise DataError(
            f"{name!r}: {' and '.join(sorted(split))} may all be the split {wanted!r} ({option}); join them, or rename all but one."
        )
    return split[0]
