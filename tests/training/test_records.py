import io
import json
from types import SimpleNamespace

from rich.console import Console

from hf_cl.training.records import Records


class Accelerator(SimpleNamespace):
    """What records need of accelerate's."""

    def __init__(self, main=True):
        super().__init__(is_main_process=main, logged=[])

    def log(self, values, step):
        self.logged.append((step, values))


def records(folder, *, terminal=True, main=True, quiet=False):
    made = Records(folder, Accelerator(main), quiet=quiet)
    file = io.StringIO()
    made.console = Console(file=file, width=140, force_terminal=terminal, quiet=made.console.quiet, color_system=None)
    return made, file


def test_a_record_is_a_line_and_its_numbers_go_to_the_trackers(tmp_path):
    made, _ = records(tmp_path)
    made.write("train", 3, session=1, phase="vor", epoch=0, loss_cross_entropy=0.5)
    made.write("probe", 3, report={"a": 1}, trained=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "probe"] and lines[0]["phase"] == "vor"
    assert made.accelerator.logged == [(3, {"train/session": 1, "train/epoch": 0, "train/loss_cross_entropy": 0.5})]  # no words, no flags


def test_other_processes_write_nothing(tmp_path):
    made, file = records(tmp_path, main=False)
    made.write("train", 1, loss=0.5)
    made.say("hello")
    made.start_bar("session 0", 10)
    made.stop_bar()
    assert not list(tmp_path.iterdir()) and not made.accelerator.logged and not file.getvalue()


def test_the_bar_says_session_epoch_loss_speed_and_what_is_left(tmp_path):
    made, file = records(tmp_path)
    made.start_bar("session 2", 40, 10, {"train": 7})
    bar = made._progress
    clock = iter(range(1000))
    bar.get_time = bar._tasks[made._task]._get_time = lambda: float(next(clock))
    for step in range(10):
        made.advance(images=64)
        made.write("train", step, phase="train", epoch=3, loss_cross_entropy=0.25)
        made.note("cross_entropy 0.250")
    bar.refresh()
    shown = file.getvalue().split("session 2")[-1]
    made.stop_bar()
    for part in ("epoch 4 of 7", "20/40", "cross_entropy 0.250", "images/s"):
        assert part in shown
    assert "0:0" in shown or "0:1" in shown  # time left


def test_several_phases_are_named(tmp_path):
    made, file = records(tmp_path)
    made.start_bar("session 0", 40, 0, {"train": 7, "vor": 2})
    made.write("train", 1, phase="vor", epoch=0)
    made._progress.refresh()
    made.stop_bar()
    assert "vor, epoch 1 of 2" in file.getvalue()


def test_a_line_where_stderr_is_no_terminal(tmp_path):
    made, file = records(tmp_path, terminal=False)
    made.start_bar("session 0", 10, 2, {"train": 5})
    made.advance(images=8)
    made.note("loss 1.0")
    made.stop_bar()
    assert file.getvalue() == "session 0: 8 steps (train 5 epochs)\n"
    made.start_bar("session 1", 1, 0, {"train": 1, "vor": 0})
    assert file.getvalue().splitlines()[1] == "session 1: 1 step (train 1 epoch, vor 0 epochs)"


def test_nothing_where_quiet_was_asked_for(tmp_path):
    made, file = records(tmp_path, quiet=True)
    made.start_bar("session 0", 10)
    made.stop_bar()
    assert not file.getvalue()
