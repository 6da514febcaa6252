"""Which pictures are looked at before training: each once, until it changes; and what is known of them without a look."""

from __future__ import annotations

import os
import pickle
import shutil

import numpy as np
import pytest

from hf_cl.scenarios import ImageSet, check_pictures
from hf_cl.scenarios import check_record as records
from hf_cl.scenarios.check_record import CheckRecord
from hf_cl.scenarios.image_store import FileStore
from hf_cl.scenarios.picture_check import Look

COUNT = 4


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_CL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "checked"


class Counting(FileStore):
    """Notes which files are opened, and of which the pixels are decoded."""

    opened: list[str]
    decoded: list[str]

    def open(self, row):
        self.opened.append(self.file_names[row])
        return super().open(row)


@pytest.fixture
def look(write_folder):
    """`look("changed")` -> (unreadable files, files opened, files decoded) of a folder of four pictures, as a start of now sees it."""
    folder = write_folder({"cat": COUNT})

    def start(how: Look = "changed"):
        store = Counting(folder, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png")))
        store.opened, store.decoded = [], []
        images = ImageSet(store, np.zeros(len(store), dtype=np.int64))
        found = check_pictures(images, look=how, seen=lambda source, row, picture: store.decoded.append(store.file_names[row]))
        return [bad.where for bad in found], sorted(store.opened), sorted(store.decoded)

    start.folder = folder
    return start


ALL = [f"cat/{i:03d}.png" for i in range(COUNT)]


def test_the_first_start_looks_at_all_and_the_second_at_none(look):
    assert look() == ([], ALL, ALL)
    assert look() == ([], [], [])


def test_all_looks_again_and_writes_down_what_it_found(look):
    look()
    assert look("all") == ([], ALL, ALL)
    assert look() == ([], [], [])


def test_header_decodes_none_and_does_not_call_them_whole(look):
    assert look("header") == ([], ALL, [])
    assert look() == ([], ALL, ALL), "a header says nothing about the rest"
    assert look("header") == ([], [], []), "what was decoded once needs no look at its header"


def test_none_looks_at_nothing_even_at_what_is_no_picture(look):
    (look.folder / "cat" / "000.png").write_bytes(b"no picture")
    assert look("none") == ([], [], [])
    assert look("header") == (["cat/000.png"], ALL, [])


def test_a_cut_picture_has_a_good_header(look):
    file = look.folder / "cat" / "001.png"
    file.write_bytes(file.read_bytes()[:50])
    assert look("header")[0] == []
    assert look()[0] == ["cat/001.png"]


def test_a_broken_picture_is_found_at_every_start(look):
    (look.folder / "cat" / "001.png").write_bytes(b"no picture")
    for opened in (ALL, ["cat/001.png"], ["cat/001.png"]):
        assert look()[:2] == (["cat/001.png"], opened)


@pytest.mark.parametrize("change", ["bytes", "time alone"])
def test_a_changed_picture_alone_is_looked_at(look, change, picture):
    look()
    file = look.folder / "cat" / "002.png"
    before = file.stat()
    if change == "bytes":
        picture(red=200).resize((300, 300)).save(file)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` leaves it
    else:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert look() == ([], ["cat/002.png"], ["cat/002.png"])
    assert look() == ([], [], [])


def test_a_new_picture_is_looked_at_and_a_deleted_one_is_not_missed(look, picture):
    look()
    picture(red=9).save(look.folder / "cat" / "new.png")
    (look.folder / "cat" / "000.png").unlink()
    assert look() == ([], ["cat/new.png"], ["cat/new.png"])
    picture(red=0).save(look.folder / "cat" / "000.png")  # it comes again, at another time
    assert look() == ([], ["cat/000.png"], ["cat/000.png"])


def test_pictures_of_another_place_are_others(look, tmp_path):
    look()
    shutil.copytree(look.folder, tmp_path / "elsewhere")
    store = FileStore(tmp_path / "elsewhere", ALL)
    assert not CheckRecord(store.place).known(store.stamps(range(COUNT)))[0].any()


def test_a_record_of_other_rules_or_another_pillow_is_not_believed(look, monkeypatch):
    look()
    with monkeypatch.context() as other:
        other.setattr(records, "RULES", records.RULES + 1)
        assert look() == ([], ALL, ALL)
    monkeypatch.setattr(records.PIL, "__version__", "0.1")
    assert look() == ([], ALL, ALL)


@pytest.mark.parametrize("content", [b"", b"cut off", np.arange(3.0).tobytes()], ids=["empty", "torn", "of another type"])
def test_a_record_that_cannot_be_read_is_no_record(look, cache, content):
    look()
    (record,) = cache.iterdir()
    record.write_bytes(content)
    assert look() == ([], ALL, ALL)
    assert look() == ([], [], []), "it has been written anew"


def test_a_record_is_never_unpickled(look, cache):
    look()
    (record,) = cache.iterdir()
    record.write_bytes(pickle.dumps({"a": 1}))
    assert look() == ([], ALL, ALL)


def test_a_cache_that_cannot_be_written_to_costs_a_look_and_no_more(look, cache):
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")  # nobody can write below it, not even root
    for _ in range(2):
        assert look() == ([], ALL, ALL)


def test_only_the_newest_records_are_kept(cache, monkeypatch):
    monkeypatch.setattr(records, "KEPT", 2)
    for i, name in enumerate(["old", "middle", "new"]):
        record = CheckRecord(name)
        record.add(np.array([1, 2], dtype=np.uint64), np.ones((2, 2), np.uint64))
        os.utime(record.path, ns=(i, i))
    CheckRecord("newest").add(np.array([3], dtype=np.uint64), np.ones((1, 2), np.uint64))
    assert sorted(cache.iterdir()) == sorted(CheckRecord(name).path for name in ("new", "newest"))


def test_what_has_no_stamp_is_always_looked_at():
    """A file that is gone, or a table in memory."""
    record = CheckRecord("any")
    stamps = np.array([0, 5], dtype=np.uint64)
    record.add(stamps, np.array([[7, 7], [8, 9]], dtype=np.uint64))
    found, digests = record.known(stamps)
    assert found.tolist() == [False, True] and digests.tolist() == [[0, 0], [8, 9]]
