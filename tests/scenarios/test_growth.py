from __future__ import annotations

import numpy as np
import pytest

from hf_cl.scenarios import DataError, class_incremental
from hf_cl.scenarios.growth import grown_order, keep_sides


@pytest.mark.parametrize("per_session", [1, 2, 5])
def test_new_classes_come_behind_the_taught_ones(per_session):
    names = ("ant", "bee", "cat", "dog", "eel", "fox")
    order, sizes = grown_order(names, np.arange(6), [["dog", "cat"], ["fox"]], per_session)
    assert [names[label] for label in order] == ["dog", "cat", "fox", "ant", "bee", "eel"]
    assert sizes == {1: [2, 1, 1, 1, 1], 2: [2, 1, 2, 1], 5: [2, 1, 3]}[per_session]


def test_a_taught_class_cannot_be_taken_out():
    with pytest.raises(DataError, match="1 classes that the run has taught have no images now: cat"):
        grown_order(("ant",), np.arange(1), [["cat"]], 1)


@pytest.mark.parametrize("class_order", ["natural", "seed"])
def test_without_new_classes_the_stream_is_the_one_it_was(make_source, class_order):
    source = make_source([6] * 5)
    whole = class_incremental(source, 2, 2, class_order)
    again = class_incremental(source, 2, 2, class_order, taught=[list(session.new_class_names) for session in whole.sessions[:2]])
    assert [session.class_names for session in again] == [session.class_names for session in whole]
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.train.indices, other.train.indices)


def test_known_pictures_keep_their_side_and_new_ones_move_no_other(make_source):
    images = make_source([50, 50, 4]).unsplit
    contents = [f"{position:012x}" + "0" * 20 for position in np.random.default_rng(0).integers(0, 1 << 48, 104).tolist()]
    drawn = np.zeros(104, dtype=bool)
    drawn[images.positions_of(2)[0]] = True
    old = [position for position in range(104) if images.labels[position] != 2 and position % 2]
    known = {contents[position]: position % 3 == 0 for position in old}
    held = keep_sides(images, drawn, contents, known, 0.2, 0)
    assert all(held[position] == (position % 3 == 0) for position in old)
    new = [position for position in range(104) if images.labels[position] != 2 and not position % 2]
    assert 2 <= held[new].sum() <= 20
    np.testing.assert_array_equal(held[images.positions_of(2)], drawn[images.positions_of(2)])
    fewer = keep_sides(images.subset(np.arange(60)), drawn[:60], contents[:60], known, 0.2, 0)
    np.testing.assert_array_equal(fewer[images.labels[:60] != 2], held[:60][images.labels[:60] != 2])
