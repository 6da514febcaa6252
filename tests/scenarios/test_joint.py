"""All sessions of a stream as one."""

from __future__ import annotations

import numpy as np
from stream import Stream

from hf_cl.scenarios import class_incremental
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.joint import joint


def test_one_session_has_the_images_of_all(make_source):
    stream = class_incremental(make_source([6, 5, 4, 3], [2] * 4), 2, 1, validation_fraction=0.2)
    (session,) = joint(stream)
    assert session.class_names == session.new_class_names == stream.class_names
    assert isinstance(session.train, ImageSet) and isinstance(session.validation, ImageSet)
    for name in ("train", "validation"):
        want = np.concatenate([getattr(s, name).indices for s in stream])
        assert getattr(session, name).indices.tolist() == want.tolist()
    (test,) = session.tests
    assert (test.name, test.candidates, len(test.data)) == ("session-0", (0, 1, 2, 3), 8)
    assert joint(stream).protocol["details"] == {"joint": True}


def test_data_sets_of_any_kind_are_joined():
    stream = Stream(3)
    (session,) = joint(stream)
    sessions = [*stream]
    assert len(session.train) == 54 and session.train.indices.tolist() == [*range(54)]
    item, there = session.train[20], sessions[1].train[2]
    assert item["label"] == there["label"] and item["index"] == 20 and item["image"].tobytes() == there["image"].tobytes()
    assert session.train.labels.tolist() == [label for s in sessions for label in s.train.labels] and session.validation is None
