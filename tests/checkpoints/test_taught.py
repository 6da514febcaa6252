import pytest
from loop_case import build, digest
from stream import Images, Stream

from hf_cl.checkpoints.store import CheckpointStore
from hf_cl.checkpoints.taught import check_current, check_protocol, check_taught, taught
from hf_cl.contracts import Session, Test


def session(number, names, train=4, test=2):
    seen = tuple(names)
    return Session(number, seen, seen[-1:], train=Images([number] * train), tests=(Test("session-0", range(test), (0,)),))


TWO = [session(0, ["cat"]), session(1, ["cat", "dog"])]


def test_new_sessions_may_follow():
    check_taught(taught(TWO), [*TWO, session(2, ["cat", "dog", "ant"])], ended=2)
    check_taught(taught(TWO[:1]), TWO, ended=0)


def test_training_images_of_ended_sessions_may_be_gone():
    gone = session(0, ["cat"], train=0)
    check_taught(taught(TWO), [gone, TWO[1]], ended=1)
    with pytest.raises(ValueError, match="Session 0 of the run had 4 training and 2 test images, and would have 0 training and 2"):
        check_current(taught(TWO)[0], gone)  # that session goes on
    check_current(taught(TWO)[1], TWO[1])


def test_the_protocol_is_that_of_the_run():
    before = {"name": "rotated", "dataset": "digits", "details": {"angles": [0, 90]}}
    check_protocol(before, before | {"dataset": "moved/digits"})
    with pytest.raises(ValueError, match=r"The run's protocol had details = \{'angles': \[0, 90\]\}, the scenario now has"):
        check_protocol(before, before | {"details": {"angles": [0, 180]}})


def test_a_class_may_be_gone_as_a_whole_alone():
    def of_two(*labels):
        return [Session(0, ("cat", "dog"), ("cat", "dog"), train=Images(labels), tests=())]

    check_taught(taught(of_two(0, 0, 1, 1)), of_two(1, 1), ended=1, strict=True)
    with pytest.raises(ValueError, match="had 4 training and 0 test images, and would have 3 training"):
        check_taught(taught(of_two(0, 0, 1, 1)), of_two(0, 1, 1), ended=1, strict=True)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (
            [session(0, ["ant"]), session(1, ["ant", "dog"])],
            r"Session 0 of the run taught cat; it would teach ant now\..*--class_order file",
        ),
        (TWO[:1], "The run has begun 2 sessions, and these data make 1"),
        (
            [TWO[0], session(1, ["cat", "dog"], train=5)],
            "Session 1 of the run had 4 training and 2 test images, and would have 5 training and 2",
        ),
        ([TWO[0], session(1, ["cat", "dog"], test=1)], "would have 4 training and 1 test"),
    ],
)
def test_what_was_taught_stays(now, message):
    with pytest.raises(ValueError, match=message):
        check_taught(taught(TWO), now, ended=2, strict=True)


def test_images_of_ended_sessions_may_change_and_that_is_said():
    assert check_taught(taught(TWO), TWO, ended=2) == []
    now = [session(0, ["cat"], test=3), session(1, ["cat", "dog"], train=5, test=1)]
    assert check_taught(taught(TWO), now, ended=2) == [
        "Session 0 had 2 test images then, 3 now.",
        "Session 1 had 2 test images then, 1 now and 4 training images then, 5 now (a session that has ended is not trained again).",
    ]
    with pytest.raises(ValueError, match="Session 1 of the run was tested on 2 images, and none is left"):
        check_taught(taught(TWO), [TWO[0], session(1, ["cat", "dog"], test=0)], ended=2)


class Reordered(Stream):
    """The first two classes have changed places, as when a folder is renamed."""

    def __init__(self, sessions):
        super().__init__(sessions)
        self.names = self.class_names = (self.names[1], self.names[0], *self.names[2:])


class WithoutOldImages(Stream):
    """Nothing is left to train the first two sessions on."""

    def __iter__(self):
        for now in super().__iter__():
            yield now if now.id > 1 else Session(now.id, now.class_names, now.new_class_names, train=Images([]), tests=now.tests)


def resumed(folder, stream):
    trainer = build(folder, sessions=3, head="prototype", resume="auto")
    return type(trainer)(trainer.backbone, trainer.processor, trainer.method, stream, trainer.settings)


def test_a_run_is_not_resumed_on_other_classes(tmp_path):
    build(tmp_path, sessions=2, head="prototype").fit()
    with pytest.raises(ValueError, match="Session 0 of the run taught class 0, class 1; it would teach class 1, class 0 now"):
        resumed(tmp_path, Reordered(3)).fit()


def test_a_run_goes_on_when_old_training_images_are_gone(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "gone"
    expected = build(whole, sessions=3, head="prototype").fit()
    build(folder, sessions=2, head="prototype").fit()
    results = resumed(folder, WithoutOldImages(3)).fit()
    assert digest(folder) == digest(whole) and results.accuracy_matrix == expected.accuracy_matrix
    assert [record.num_train for record in results.sessions] == [18, 18, 18]  # what they were trained on


def test_a_checkpoint_of_an_earlier_version_is_called_so(tmp_path, monkeypatch):
    build(tmp_path, sessions=1).fit()
    whole = CheckpointStore.load
    monkeypatch.setattr(CheckpointStore, "load", lambda self, step: {k: v for k, v in whole(self, step).items() if k != "taught"})
    with pytest.raises(ValueError, match="was written by an earlier version of hf_cl"):
        build(tmp_path, sessions=1, resume="auto").fit()
