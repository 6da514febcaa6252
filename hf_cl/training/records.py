"""One list of records; the log file, the trackers and the console are writers of it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

logger = logging.getLogger(__name__)


def start_trackers(accelerator: Any, report_to: Sequence[str], settings: Mapping[str, Any], folder: Path) -> None:
    """Start the trackers of a run, with its settings; those that keep files keep them in the run folder (trackio: in its own).

    Args:
        accelerator: made with `log_with=report_to`.
        report_to: names of trackers, as in the settings.
        settings: every resolved setting; what is no number or text is written as text.
        folder: the run folder.

    Raises ValueError for a tracker that is not installed: accelerate would leave it out without a word.
    """
    missing = sorted(set(report_to) - {str(tracker) for tracker in accelerator.log_with})
    if missing:
        raise ValueError(f"report_to names {missing[0]}, which is not installed: pip install {missing[0]}, or leave it out.")
    plain = {name: value if isinstance(value, (bool, int, float, str)) else str(value) for name, value in settings.items()}
    accelerator.init_trackers("hf_cl", config=plain, init_kwargs={"wandb": {"dir": str(folder)}})


class Records:
    """Writes what happens in a run. Does nothing on other processes than the main one.

    Args:
        folder: the run folder; `log.jsonl` in it gets one line per record.
        accelerator: for trackers and the main-process question.
        quiet: no console output.
    """

    def __init__(self, folder: Path, accelerator: Any, quiet: bool = False) -> None:
        self.main = accelerator.is_main_process
        self.accelerator = accelerator
        self.path = folder / "log.jsonl"
        self.console = Console(stderr=True, quiet=quiet or not self.main)
        self._progress: Progress | None = None
        self._task: Any = None
        self._epochs: Mapping[str, int] = {}

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Add one record: `kind` ("step", "epoch", "session", ...), the optimizer step and plain values."""
        if not self.main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), "kind": kind, "step": step, **values}) + "\n")
        if "epoch" in values and self._progress is not None:
            self._progress.update(self._task, epoch=self._epoch(values["epoch"], values.get("phase", "")))
        numbers = {
            f"{kind}/{name}": value for name, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        if numbers:
            self.accelerator.log(numbers, step=step)

    def say(self, text: Any) -> None:
        """Print a line or a rich table on the main process; a line is not broken, so that a path in it can be copied."""
        self.console.print(text, soft_wrap=isinstance(text, (str, Text)))

    def _epoch(self, epoch: int, phase: str) -> str:
        """epoch 3 of 10; with the phase's name where the session has several."""
        of = f" of {self._epochs[phase]}" if phase in self._epochs else ""
        return f"{f'{phase}, ' if len(self._epochs) > 1 else ''}epoch {epoch + 1}{of}"

    def start_bar(self, description: str, total: int, completed: int = 0, epochs: Mapping[str, int] | None = None) -> None:
        """A progress bar for one session; a line instead where stderr is no terminal.

        Args:
            description: "session 2".
            total, completed: optimizer steps.
            epochs: of each phase, by its name.
        """
        self._epochs = epochs or {}
        if self.console.quiet:
            return
        if not self.console.is_terminal:
            planned = ", ".join(f"{phase} {count} epoch{'s' if count != 1 else ''}" for phase, count in self._epochs.items())
            if total > completed:
                steps = "1 step" if total - completed == 1 else f"{total - completed} steps"
                self.console.print(Text(f"{description}: {steps}{f' ({planned})' if planned else ''}"))
            return
        columns = (
            TextColumn("{task.description}"),
            TextColumn("{task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            _ImagesPerSecond(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self.console, transient=True)
        self._progress.start()
        self._task = self._progress.add_task(description, total=total, completed=completed, note="", epoch="", images=0)

    def advance(self, images: int = 0) -> None:
        """One step further, which took `images` images over all processes."""
        if self._progress is not None:
            self._progress.update(self._task, advance=1, images=images)

    def note(self, text: str) -> None:
        """Replace the text beside the bar."""
        if self._progress is not None:
            self._progress.update(self._task, note=text)

    def stop_bar(self) -> None:
        """Remove the bar."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _ImagesPerSecond(ProgressColumn):
    """Steps per second of late, times the images of a step."""

    def render(self, task: Task) -> Text:
        rate = (task.speed or 0.0) * task.fields["images"]
        return Text(f"{rate:.0f} images/s" if rate else "", style="progress.data.speed")
