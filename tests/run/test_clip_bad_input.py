"""What a user of a text head gets wrong: one sentence, before anything trains."""

from __future__ import annotations

import pytest
import torch
from clip_runs import NAMES, write_base, write_photos

from hf_cl.methods import METHODS
from hf_cl.run import launch, run

SESSIONS = {"protocol": "few_shot_class_incremental", "num_base_classes": 2, "classes_per_session": 2, "shots": 3}
HALVES = {"protocol": "base_to_novel", "shots": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture
def says(base, tmp_path, monkeypatch, capsys):
    """The line on stderr of a run that is refused; the run must not have taken a step."""

    def step(*args, **kwargs):
        raise AssertionError("it trained")

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    monkeypatch.setattr(torch.optim.AdamW, "step", step)

    def refused(method: str = "cpe_clip", names=NAMES, **settings) -> str:
        if not (tmp_path / "photos").exists():
            write_photos(tmp_path / "photos", names, train=4, test=1)
        values = {
            "backbone": base,
            "dataset": tmp_path / "photos",
            "output_dir": tmp_path / "run",
            "cpu": True,
            "num_workers": 1,
            **settings,
        }
        assert launch(run, METHODS[method], method, [f"--{key}={value}" for key, value in values.items()]) == 2
        assert not (tmp_path / "run" / "adapters").exists()
        error = capsys.readouterr().err
        assert error.startswith("hf-cl: ") and error.count("\n") <= 2
        return error

    return refused


LONG = " ".join(["w39"] * 22)


@pytest.mark.parametrize("protocol", [SESSIONS, HALVES], ids=["taught in the last session", "only tested"])
def test_a_name_longer_than_the_text_context(protocol, says):
    error = says(names=[*NAMES[:5], LONG], **protocol)
    assert "is too long: its text" in error and "the model reads 24, of which 2 are kept for prompts. Shorten the name" in error
    assert "'w39 w39" in error


def test_two_names_that_read_alike_in_two_sessions(says):
    error = says(names=["w10_w11", *NAMES[2:], "w10 w11"], **SESSIONS)
    assert "have the same text 'w10 w11.'; a text head cannot tell them apart" in error


def test_a_name_that_is_empty_once_cleaned(says):
    assert "The class name '_' is empty: a text head knows a class by its name alone." in says(names=[*NAMES, "_"], **SESSIONS)


def test_no_shots(says):
    for protocol in (SESSIONS, HALVES):
        assert "shots is the number of training images per class; it must be at least 1, got 0" in says(**{**protocol, "shots": 0})
    assert "needs shots" in says(**{**SESSIONS, "shots": "null"})


def rows(*classes: int) -> list[int]:
    """The first three of each class's four training images."""
    return [4 * c + k for c in classes for k in range(3)]


@pytest.fixture
def lists(tmp_path):
    """Writes `session_k.txt`, one row number per line."""

    def write(*sessions: list[int]) -> str:
        folder = tmp_path / "lists"
        folder.mkdir(exist_ok=True)
        for k, numbers in enumerate(sessions, start=1):
            (folder / f"session_{k}.txt").write_text("".join(f"{number}\n" for number in numbers))
        return str(folder)

    return write


def test_a_class_in_two_sessions(lists, says):
    folder = lists(rows(0, 1), rows(2, 3), [*rows(4), 15, *rows(5)])
    error = says(**SESSIONS, index_list=folder)
    assert "session_3.txt, line 4: class 'w13' is in two sessions; " in error and "session_2.txt, line 4 has it too" in error


def test_a_list_with_a_wrong_line_names_file_and_line(lists, says):
    error = says(**SESSIONS, index_list=lists(rows(0, 1), [*rows(2), 99], rows(4, 5)))
    assert "session_2.txt, line 4: row 99 is not there" in error
    error = says(**SESSIONS, index_list=lists(rows(0, 1), [*rows(2), "w13"], rows(4, 5)))
    assert "session_2.txt, line 4: 'w13' is none of the 24 training images" in error


def test_a_mode_that_the_text_tower_does_not_support(says):
    assert "Unknown setting 'text_mode'" in says(**SESSIONS, text_mode="accumulate")
    assert "the model reads 24, of which 22 are kept for prompts" in says(**SESSIONS, num_prompt_tokens=22)


def test_a_base_without_a_text_tower(says):
    for method in ("cpe_clip", "glad"):
        assert "The base `demo` is a ViT without a text tower. A text head needs a CLIP" in says(method, **SESSIONS, backbone="demo")
