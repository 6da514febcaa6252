from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from hf_cl.scenarios import DataError, ImageSet
from hf_cl.scenarios.draws import draw_shots, name_key, permutation, split_per_class, tracks_of
from hf_cl.scenarios.image_store import FileStore

NAMES = ("a", "b", "c")


def interleaved(per_class: int) -> ImageSet:
    labels = np.tile([0, 1, 2], per_class)
    return ImageSet(FileStore(Path(), [f"{i}.jpg" for i in range(len(labels))]), labels)


def signs(tracks: int, frames: int, classes: int = 2) -> ImageSet:
    names = [f"{c:05d}/{t:05d}_{f:05d}.ppm" for c in range(classes) for t in range(tracks) for f in range(frames)]
    return ImageSet(FileStore(Path(), names), np.repeat(np.arange(classes), tracks * frames))


def test_draws_differ_by_purpose_seed_and_class():
    asked = [("test", 0, 0), ("validation", 0, 0), ("shots", 0, 0), ("test", 1, 0), ("test", 0, 1)]
    assert len({tuple(permutation(50, *what)) for what in asked}) == 5


def test_the_draw_is_pinned():
    """A published own split must not change with the code."""
    assert name_key("cat") == 8624243251692164259
    assert permutation(8, "test", 0, name_key("cat")).tolist() == [7, 3, 1, 6, 5, 4, 0, 2]
    assert permutation(8, "shots", 3, 1).tolist() == [6, 2, 1, 5, 4, 3, 7, 0]


def test_a_split_stays_when_a_class_is_added_before_the_others():
    more = ImageSet(FileStore(Path(), [f"{i}.jpg" for i in range(40)]), np.tile([0, 1, 2, 3], 10))
    _, before = split_per_class(interleaved(10), 0.2, "test", 0, class_names=NAMES)
    _, after = split_per_class(more, 0.2, "test", 0, class_names=("Ant", *NAMES))
    for label in range(3):  # the n-th image of the class, not its row
        assert (before.of_classes([label]).indices // 3).tolist() == (after.of_classes([label + 1]).indices // 4).tolist()


def test_fewer_shots_are_the_first_of_more():
    two, five = (draw_shots(interleaved(10), shots, 4, [0, 2], NAMES) for shots in (2, 5))
    for label in (0, 2):
        assert two.of_classes([label]).indices.tolist() == five.of_classes([label]).indices[:2].tolist()
    assert two.labels.tolist() == [0, 0, 2, 2]


def test_a_class_is_drawn_alike_whatever_the_others_are():
    images = interleaved(10)
    assert (
        draw_shots(images, 3, 0, [1], NAMES).indices.tolist() == draw_shots(images, 3, 0, [0, 1, 2], NAMES).of_classes([1]).indices.tolist()
    )


def test_too_few_images_for_the_shots_are_listed():
    images = interleaved(4).subset(np.arange(11))
    with pytest.raises(DataError, match="1 classes have fewer training images than the 4 shots asked for: 'c' has 3"):
        draw_shots(images, 4, 0, [0, 1, 2], NAMES)


def test_parts_are_disjoint_complete_and_in_order():
    images = interleaved(11)
    rest, part = split_per_class(images, 0.25, "validation", 0, class_names=NAMES)
    assert part.counts(3).tolist() == [3, 3, 3]
    assert sorted([*rest.indices, *part.indices]) == list(range(33))
    assert (np.diff(part.indices) > 0).all()


def test_a_small_fraction_still_takes_one_image_of_each_class():
    assert split_per_class(interleaved(5), 0.01, "validation", 0, class_names=NAMES)[1].counts(3).tolist() == [1, 1, 1]


def test_a_class_of_one_image_cannot_be_parted():
    with pytest.raises(DataError, match=r"too few images to part with 20% as test images: 'a' \(1 images\)"):
        split_per_class(interleaved(1), 0.2, "test", 0, class_names=NAMES)


def test_tracks_of_gtsrb_are_not_torn_apart():
    images = signs(tracks=10, frames=7)
    tracks = tracks_of(images, "gtsrb")
    rest, part = split_per_class(images, 0.2, "test", 0, class_names=NAMES, tracks=tracks)
    groups = [{name.rsplit("_", 1)[0] for name in side.file_names or ()} for side in (rest, part)]
    assert not groups[0] & groups[1]
    assert part.counts(2).tolist() == [14, 14]


def test_other_data_sets_have_no_tracks_and_gtsrb_without_names_is_reported(caplog):
    images = signs(2, 2)
    assert tracks_of(images, "cub200") is None
    unnamed = ImageSet(FileStore(Path(), ["a.png", "b.png"]), [0, 1])
    with caplog.at_level(logging.WARNING):
        assert tracks_of(unnamed, "gtsrb") is None
    assert "near-duplicate" in caplog.text


def test_a_class_of_one_track_cannot_be_parted():
    images = signs(tracks=1, frames=5)
    with pytest.raises(DataError, match="too few tracks"):
        split_per_class(images, 0.2, "test", 0, class_names=NAMES, tracks=tracks_of(images, "gtsrb"))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="class_order_seed must be 0 or more"):
        permutation(3, "test", -1, 0)
