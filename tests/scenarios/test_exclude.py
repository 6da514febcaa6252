"""Pictures that a file names are left out of every side and session."""

import pytest

from hf_cl.errors import DataError
from hf_cl.scenarios import class_incremental, open_images
from hf_cl.scenarios.exclude import line_of, read_excluded, without

ODD = ["a/1.png", "# no remark.png", '"quoted".png', " spaces ", "tab\there", "line\nbreak", "na\u00efve.jpg", "no utf-8 \udcff.png"]


def digits(**values):
    return class_incremental(open_images("digits"), 4, 3, "natural", **values)


def names_of(stream):
    sets = [session.train for session in stream] + [test.data for test in stream.sessions[-1].tests]
    return {data.describe(position) for data in sets for position in range(len(data))}


def test_a_name_comes_back_whatever_it_is(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# a remark\n\n" + "".join(line_of(name, "why, with \t tabs") for name in ODD))
    assert read_excluded(file) == {*ODD}


@pytest.mark.parametrize(("content", "said"), [('"broken\n', "line 1: no JSON string"), (None, "cannot be read")])
def test_a_file_that_is_none_is_refused(tmp_path, content, said):
    file = tmp_path / "names.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=said):
        read_excluded(file)


def test_a_file_of_remarks_alone_leaves_nothing_out(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("# Pictures to leave out\n# row 3\t8? looks like 1\n")
    stream = digits()
    assert without(stream, read_excluded(file), "names.txt") is stream


def test_the_stream_is_the_same_without_them():
    before = digits(validation_fraction=0.1)
    gone = {before.sessions[0].train.describe(2), before.sessions[1].tests[1].data.describe(0), before.sessions[2].validation.describe(0)}
    after = without(before, gone, "names.txt")
    assert len(after) == 3 and names_of(before) - names_of(after) == gone - {before.sessions[2].validation.describe(0)}
    assert [len(a.train) - len(b.train) for a, b in zip(before, after, strict=True)] == [1, 0, 0]
    assert len(before.sessions[2].validation) - len(after.sessions[2].validation) == 1
    assert after.sessions[1].tests[0].data is after.sessions[2].tests[0].data, "tests stay one object"
    assert before.sessions[1].train is after.sessions[1].train
    assert after.protocol["details"]["excluded"]["images"] == 3
    other = without(before, [*gone][:2], "names.txt").protocol["details"]["excluded"]["sha256"]
    assert other != after.protocol["details"]["excluded"]["sha256"] and "details" in before.protocol and not before.protocol["details"]


def test_an_online_stream_keeps_what_has_come_by_each_picture():
    before = digits(online=True)
    first = before.sessions[0].train
    gone = {first.describe(position) for position in (0, 5, 6)}
    session = without(before, gone, "names.txt").sessions[0]
    kept = [position for position in range(len(first)) if first.describe(position) not in gone]
    assert session.exposed == [before.sessions[0].exposed[position] for position in kept] and len(session.train) == len(kept)


def test_a_stream_that_cannot_go_on_is_refused(caplog):
    stream = digits()
    train = stream.sessions[1].train
    with pytest.raises(DataError, match=r"no session has any of the 1 pictures that x\.txt names"):
        without(stream, {"row 99999"}, "x.txt")
    with pytest.raises(DataError, match="session 1 is left without a training picture of '4'"):
        without(stream, {train.describe(p) for p in range(len(train)) if train.labels[p] == 4}, "x.txt")
    test = stream.sessions[0].tests[0].data
    with pytest.raises(DataError, match="the test session-0 is left without a picture"):
        without(stream, {test.describe(p) for p in range(len(test))}, "x.txt")
    without(stream, {train.describe(0), "row 99999"}, "x.txt")
    assert "no session has 1 of the 2 pictures: row 99999" in caplog.text
