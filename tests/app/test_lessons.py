"""Teaching without the page: what is collected becomes the run's next session."""

from __future__ import annotations

import pytest
from taught_run import in_this_process, train_photos, write_photos

from hf_cl.app.class_cards import class_cards, table_of
from hf_cl.app.lessons import Lessons, command
from hf_cl.hub.load import load
from hf_cl.results.saved_run import read_run


@pytest.mark.parametrize("split", [True, False], ids=["train and test folders", "one folder"])
def test_a_new_class_and_more_of_a_known_one(split, tmp_path):
    folder = train_photos(tmp_path, split=split)
    lessons = Lessons(folder, start=in_this_process)
    assert lessons.said() == "Nothing is collected yet." and lessons.classes == ["coal", "fog"]
    new, more = write_photos(tmp_path / "new", "rose", 6), write_photos(tmp_path / "more", "coal", 3, seed=9)
    assert lessons.collect("rose", new[:4]) == "Collected: rose (new): 4."
    assert lessons.collect(" rose ", new) == "Collected: rose (new): 6.", "a picture counts once"
    lessons.collect("coal", more)
    assert list(lessons.learn()) == ["done", "done"]
    results = read_run(folder).results
    assert [list(session.new_class_names) for session in results.sessions] == [["coal"], ["fog"], ["rose"], []]
    assert load(folder, device="cpu").predict([write_photos(tmp_path / "asked", "rose", 1, seed=5)[0]])[0][0].name == "rose"
    assert lessons.what_changed(2) == "New: rose 100 %. No old class is recognised more or less often."
    assert lessons.said() == "Nothing is collected yet." and lessons.classes == ["coal", "fog", "rose"]
    photos = tmp_path / "photos"
    assert len(list((photos / "test" / "rose").iterdir())) == 1 if split else len(list((photos / "rose").iterdir())) == 6


def test_what_fails_leaves_the_photos_as_they_were(tmp_path):
    folder = train_photos(tmp_path, split=True)

    def fails(arguments):
        assert (tmp_path / "photos" / "train" / "rose").is_dir()
        yield "a line"
        raise ValueError("no space left")

    lessons = Lessons(folder, start=fails)
    before = sorted(tmp_path.joinpath("photos").rglob("*"))
    with pytest.raises(ValueError, match="Nothing is collected"):
        list(lessons.learn())
    for name in ("", "..", "a/b", ".hidden", "line\nbreak"):
        with pytest.raises(ValueError, match="needs a name that can be a folder's"):
            lessons.collect(name, ["x.png"])
    with pytest.raises(ValueError, match="Choose pictures of rose first"):
        lessons.collect("rose", [])
    lessons.collect("rose", write_photos(tmp_path / "new", "rose", 1))
    with pytest.raises(ValueError, match="needs 2 pictures at least, some of them to test with: rose has 1"):
        list(lessons.learn())
    lessons.collect("rose", write_photos(tmp_path / "new", "rose", 4))
    with pytest.raises(ValueError, match="no space left"):
        list(lessons.learn())
    assert sorted(tmp_path.joinpath("photos").rglob("*")) == before and lessons.collected.keys() == {"rose"}


def test_a_run_on_what_is_no_folder_says_so(run, tmp_path):
    with pytest.raises(ValueError, match=r"'digits' is none here: start `hf-cl app` from where the run was started"):
        Lessons(run)


def test_the_command_of_a_lesson_tells_its_last_words():
    with pytest.raises(ValueError, match="There is no run folder 'nowhere'"):
        list(command(["report", "nowhere"]))


def test_class_cards(run, tmp_path):
    cards = class_cards(read_run(run))
    assert [card.name for card in cards] == list("0123456789") and {card.session for card in cards} == {0, 1}
    assert all(card.accuracy is not None for card in cards) and any(card.pictures for card in cards)  # the report's test pictures
    photos = class_cards(read_run(train_photos(tmp_path, split=False)))
    assert [len(card.pictures) for card in photos] == [3, 3]
    table = table_of(photos)
    assert table.count("<img") == 6 and "100.0 %" in table and 'alt="coal"' in table
