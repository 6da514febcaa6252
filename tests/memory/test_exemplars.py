"""What is kept of sessions, how many, how it is found again, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stream import Images, Stream
from torch import nn

from hf_cl.contracts import FeatureSet
from hf_cl.memory import MEMORIES, Exemplars
from hf_cl.memory.exemplars import FOREIGN
from hf_cl.memory.joined import joined


class Folder(Images):
    """Pictures with names and contents, rows of one source: what a folder of images gives."""

    def __init__(self, labels, first_index=0, source=None, contents=None):
        super().__init__(labels, first_index)
        self.source = source if source is not None else self
        self.contents = contents or {int(i): f"content {i}" for i in self.indices}

    def describe(self, position):
        return f"photo {self.indices[position]}.jpg"

    def content_hash(self, position):
        return self.contents[int(self.indices[position])]


class Head(nn.Module):
    def embed(self, features):
        return 2.0 * features


class Trainer:
    """What a memory asks of it."""

    seed, head, memory = 3, Head(), None
    accelerator = SimpleNamespace(is_main_process=True, wait_for_everyone=lambda: None)

    def features_of(self, dataset):
        index = torch.as_tensor(np.asarray(dataset.indices))
        features = torch.stack([torch.randn(5, generator=torch.Generator().manual_seed(int(i))) for i in index])
        return FeatureSet(features, torch.as_tensor(np.asarray(dataset.labels)), index)


def sessions_of(count=3, images=9, **more):
    return list(Stream(count, train=images, **more))


def in_one_folder(count=3, images=6):
    source = object()
    return [replace(s, train=Folder(np.repeat((2 * s.id, 2 * s.id + 1), images), 100 * s.id, source)) for s in Stream(count, train=images)]


def after(memory, sessions, until):
    memory.begin_run(sessions, resumed=False)
    for session in sessions[:until]:
        memory.end_session(Trainer(), session)
    return memory


@pytest.mark.parametrize(
    "settings",
    [
        {"per_class": 2},
        {"per_class": 20},
        {"per_class": 3, "choose": "random"},
        {"total": 13},
        {"total": 13, "choose": "random"},
        {"total": 7, "choose": "reservoir"},
    ],
    ids=str,
)
def test_what_is_planned_is_what_is_kept(settings):
    sessions = sessions_of()
    memory = Exemplars(**settings)
    memory.begin_run(sessions, resumed=False)
    planned, held = memory.sizes(), []
    for session in sessions:
        held.append(len(memory))
        assert memory.sizes()[session.id :] == planned[session.id :]
        memory.end_session(Trainer(), session)
    assert planned == held and held[0] == 0 and held[-1] > 0


def test_the_quota_of_a_total_is_shared_and_earlier_lists_lose_their_ends():
    sessions = sessions_of()
    memory = after(Exemplars(total=12), sessions, 1)
    first = {label: [e.index for e in memory.kept if e.label == label] for label in (0, 1)}
    assert [len(some) for some in first.values()] == [6, 6]
    after(memory, sessions, 3)
    for label, some in first.items():
        assert [e.index for e in memory.kept if e.label == label] == some[:2]  # 12 of 6 classes
    assert len(memory) == 12


def test_a_class_that_comes_again_is_kept_of_once_more():
    again = replace(sessions_of(1)[0], id=1, new_class_names=(), train=Images([0, 0, 1, 1], first_index=50))
    memory = after(Exemplars(per_class=1), [sessions_of(1)[0], again], 2)
    assert [(e.session, e.label) for e in memory.kept] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_images_keep_their_ids_where_the_source_is_the_sessions_and_join_behind_it():
    sessions = in_one_folder()
    memory = after(Exemplars(per_class=2), sessions, 2)
    kept = memory.images(sessions[2])
    both = joined(sessions[2].train, kept)
    assert both.source is sessions[2].train.source
    assert list(kept.indices) == [e.index for e in memory.kept] and list(kept.labels) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(both) == 12 + 8 and list(both.indices[12:]) == list(kept.indices)
    place = sessions[0].train.indices.tolist().index(memory.kept[0].index)
    assert both[12]["image"].tobytes() == sessions[0].train[place]["image"].tobytes()
    assert both[12] | {"image": None} == {"image": None, "label": 0, "index": memory.kept[0].index}
    assert both[3]["index"] == sessions[2].train[3]["index"]


def test_images_of_other_data_sets_get_ids_that_are_nobodys():
    sessions = sessions_of()
    memory = after(Exemplars(per_class=2), sessions, 1)
    kept = memory.images(sessions[1])
    assert list(kept.indices) == [FOREIGN + i for i in range(4)]
    both = joined(sessions[1].train, kept)
    assert not hasattr(both, "source") and len(set(both.indices.tolist())) == len(both)
    assert joined(sessions[0].train, None) is sessions[0].train


def test_the_state_is_found_again_where_rows_have_moved():
    sessions = in_one_folder()
    memory = after(Exemplars(per_class=2), sessions, 2)
    moved = []
    for session in sessions:  # three pictures have come in front: every row has moved
        images, contents = session.train, {}
        labels = [session.first_new_class] * 3 + images.labels.tolist()
        for i in range(len(labels)):
            index = 100 * session.id + i
            contents[index] = f"new {i}" if i < 3 else images.content_hash(i - 3)
        moved.append(replace(session, train=Folder(labels, 100 * session.id, images.source, contents)))
    other = Exemplars(per_class=2)
    other.begin_run(moved, resumed=True)
    other.load_state_dict(memory.state_dict())
    assert other.kept == memory.kept and other.sizes()[2] == 8
    now, then = other.images(moved[2]), memory.images(sessions[2])
    assert [i - 3 for i in now.indices] == list(then.indices) and list(now.labels) == list(then.labels)


def test_a_picture_that_is_gone_is_refused_by_name_and_read_from_the_folder_where_one_is_kept(tmp_path):
    sessions = in_one_folder()
    kept = after(Exemplars(per_class=1, folder=str(tmp_path / "kept")), sessions, 2)
    gone = kept.kept[0]
    images = sessions[0].train
    left = [i for i in range(len(images)) if images.indices[i] != gone.index]
    fewer = Folder(images.labels[left], 0, images.source)
    fewer.indices = images.indices[left]
    now = [replace(sessions[0], train=fewer), *sessions[1:]]
    without = Exemplars(per_class=1)
    without.begin_run(now, resumed=True)
    with pytest.raises(ValueError, match=rf"1 of the 4 exemplars .* are gone: photo {gone.index}\.jpg \(class class 0, session 0\)"):
        without.load_state_dict(kept.state_dict())
    copies = Exemplars(per_class=1, folder=str(tmp_path / "kept"))
    copies.begin_run(now, resumed=True)
    copies.load_state_dict(kept.state_dict())
    before, after_ = kept.images(sessions[2]), copies.images(now[2])
    assert [after_[i]["image"].tobytes() for i in range(4)] == [before[i]["image"].tobytes() for i in range(4)]
    assert list(after_.indices)[1:] == list(before.indices)[1:] and after_.indices[0] >= FOREIGN


def test_copies_of_given_up_exemplars_go_a_session_later(tmp_path):
    sessions = sessions_of()
    folder = tmp_path / "kept"
    memory = Exemplars(total=6, folder=str(folder))
    memory.begin_run(sessions, resumed=False)
    sizes = []
    for session in sessions:
        before = len(memory)
        memory.end_session(Trainer(), session)
        sizes.append((before, len(memory), len(list(folder.iterdir()))))
    assert [held for _, held, _ in sizes] == [6, 4, 6]  # quotas 3, 1, 1
    assert sizes[1][2] == 6 + 2  # those that an earlier checkpoint knows, and the new ones
    assert not list(folder.glob("*.part"))
    with pytest.raises(ValueError, match="is not empty, and this run begins anew"):
        Exemplars(folder=str(folder)).begin_run(sessions, resumed=False)
    Exemplars(folder=str(folder)).begin_run(sessions, resumed=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"choose": "herd"}, "choose must be one of herding, random, reservoir"),
        ({"per_class": 0}, "per_class must be at least 1"),
        ({"per_class": 2, "total": 9}, "per_class or total, not both"),
        ({"choose": "reservoir"}, "needs total"),
        ({"replay": -1}, "replay must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Exemplars(**settings)


def test_a_total_below_the_classes_is_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="total 5 leaves less than one image for each of the 6 classes"):
        Exemplars(total=5).begin_run(sessions_of(), resumed=False)
    Exemplars(total=5, choose="reservoir").begin_run(sessions_of(), resumed=False)


def test_it_is_registered():
    assert MEMORIES["exemplars"]().words() == "20 exemplars a class (herding)"
    assert Exemplars(total=200, choose="reservoir").words() == "200 exemplars in all (reservoir)"
