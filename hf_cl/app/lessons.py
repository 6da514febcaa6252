"""Teaching from the page: pictures are collected under class names, then the run goes on with them, as `--resume auto` does on a grown
folder. No gradio here.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from hf_cl.app.class_cards import changes
from hf_cl.app.samples import folder_of_this_process
from hf_cl.results.display import display_name
from hf_cl.results.picture_record import read_pictures
from hf_cl.results.saved_run import Run, read_run
from hf_cl.scenarios.splits import split_kind

TESTED = 5
"""One picture in so many is kept for testing, where the data set says itself which are."""
NEWEST_LINES = 8
Start = Callable[[Sequence[str]], Iterator[str]]
"""Arguments of `hf-cl` -> the lines it says. Raises ValueError where it ends with an error."""


class Lessons:
    """What has been collected for a run, and its next session.

    Args:
        folder: the run's.
        start: runs a command; for tests.

    Raises ValueError for a run that cannot be taught from here, with the reason: see `places`.
    """

    def __init__(self, folder: str | Path, start: Start | None = None) -> None:
        self.folder = Path(folder)
        self.start = start or command
        self.places = places(read_run(self.folder))
        self._kept = folder_of_this_process()
        self.collected: dict[str, list[Path]] = {}
        self._one_at_a_time = threading.Lock()

    @property
    def classes(self) -> list[str]:
        """The classes that the run knows, in order of arrival."""
        return [name for session in read_run(self.folder).results.sessions for name in session.new_class_names]

    def collect(self, class_name: str, pictures: Sequence[str | Path]) -> str:
        """Keep pictures (files) of a class for the next lesson; a picture that is there already counts once. Returns what is there now.

        Raises ValueError for a name that cannot be a folder's.
        """
        name = class_name.strip()
        if not name or name.startswith(".") or not name.isprintable() or set(name) & set('/\\:*?"<>|') or len(name.encode()) > 200:
            raise ValueError("A class needs a name that can be a folder's: some letters, without / and the like.")
        if not pictures:
            raise ValueError(f"Choose pictures of {name} first.")
        kept = self.collected.setdefault(name, [])
        for picture in map(Path, pictures):
            content = hashlib.sha256(picture.read_bytes()).hexdigest()[:16]
            target = self._kept / f"{len(self.collected)}-taught-{content}{picture.suffix.lower()}"
            if content not in {path.stem.rpartition("-")[2] for path in kept}:
                shutil.copyfile(picture, target)
                kept.append(target)
        return self.said()

    def said(self) -> str:
        """What has been collected, in a sentence."""
        known = set(self.classes)
        parts = [f"{display_name(name)} ({'known' if name in known else 'new'}): {len(kept)}" for name, kept in self.collected.items()]
        return f"Collected: {', '.join(parts)}." if parts else "Nothing is collected yet."

    def learn(self) -> Iterator[str]:
        """Add a session for the new classes, and one for more pictures of known ones. Yields what the command says, line by line; the data
        set's folder is as it was where it fails.

        Raises ValueError with its last line.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise ValueError("A lesson is running; wait for its end.")
        try:
            known = set(self.classes)
            groups = [{name: kept for name, kept in self.collected.items() if (name in known) == old} for old in (False, True)]
            if not any(groups):
                raise ValueError("Nothing is collected yet: choose pictures and a class name first.")
            self._check(groups[0])
            for group, more in zip(groups, ([], ["--session_from", "new_pictures"]), strict=True):
                if group:
                    yield from self._lesson(group, more)
                    for name in group:
                        del self.collected[name]
        finally:
            self._one_at_a_time.release()

    def _check(self, new: dict[str, list[Path]]) -> None:
        run = read_run(self.folder)
        shots = int(run.settings.get("shots") or 0) if str(run.results.protocol.name).startswith("few_shot") else 0
        least = max(shots + -(-shots // (TESTED - 1)), 2) if shots else 2
        few = [f"{display_name(name)} has {len(kept)}" for name, kept in new.items() if len(kept) < least]
        if few:
            raise ValueError(f"A new class needs {least} pictures at least, some of them to test with: {', '.join(few)}.")

    def _lesson(self, group: dict[str, list[Path]], more: Sequence[str]) -> Iterator[str]:
        run = read_run(self.folder)
        before = len(run.results.sessions)
        put: list[Path] = []
        method = str(run.composition["name"])
        given = ["train", method, "--config", str(self.folder / "config.yaml"), "--output_dir", str(self.folder), "--resume", "auto", *more]
        for part in run.settings.get("imports") or []:
            given += ["--import", str(part)]
        made: list[Path] = []
        try:
            for name, kept in group.items():
                for number, picture in enumerate(kept):
                    template = self.places["test" if number % TESTED == 1 and "test" in self.places else "train"]
                    target = template(name) / picture.name.partition("-")[2]
                    if not target.parent.exists():
                        made.append(target.parent)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(picture, target)
                    put.append(target)
            yield from self.start(given)
            if len(read_run(self.folder).results.sessions) == before:
                raise ValueError("The run has no session more: every one of these pictures is known to it.")
        except BaseException:
            for path in put:
                path.unlink(missing_ok=True)
            for path in reversed(made):
                path.rmdir()
            raise

    def what_changed(self, before: int) -> str:
        """What the sessions from number `before` on did to the classes, in words."""
        old, new = changes(read_run(self.folder), before)
        moved = [f"{display_name(name)} {_percent(was)} → {_percent(now)}" for name, was, now in old if was != now]
        lines = [f"New: {', '.join(f'{display_name(card.name)} {_percent(card.accuracy)}' for card in new)}."] if new else []
        lines.append(f"Old classes that changed: {', '.join(moved)}." if moved else "No old class is recognised more or less often.")
        return " ".join(lines)


def places(run: Run) -> dict[str, Callable[[str], Path]]:
    """Where pictures of a class go: "train", and "test" where the data set says itself which pictures are tests -> class name -> folder.

    Raises ValueError, with the reason, for a run whose data set is no folder with a folder per class, or is not here.
    """
    root = Path(str(run.settings.get("dataset", "")))
    if not run.composition or run.results.class_accuracy_matrix is None:
        raise ValueError("Teaching goes on with runs over sessions of classes; this one cannot go on from here.")
    if not root.is_dir():
        raise ValueError(
            f"Teaching adds pictures to the folder that the run was trained on, and {str(root)!r} is none here: "
            "start `hf-cl app` from where the run was started."
        )
    templates: dict[str, Callable[[str], Path]] = {}
    for picture in read_pictures(run.folder):
        folders = PurePosixPath(picture.name).parts[:-1]
        if picture.part in ("train", "test") and picture.part not in templates and picture.class_name in folders:
            at = len(folders) - 1 - folders[::-1].index(picture.class_name)
            below = folders[at + 1 : at + 2] if split_kind(folders[-1]) else ()  # `class/train/`

            def template(name: str, folders: tuple[str, ...] = (*folders[: at + 1], *below), at: int = at) -> Path:
                return root.joinpath(*(name if i == at else part for i, part in enumerate(folders)))

            templates[picture.part] = template
    if "train" not in templates:
        raise ValueError("Teaching needs a data set with a folder per class, and this run's has none.")
    if "test" in templates and templates["test"]("x") == templates["train"]("x"):
        del templates["test"]  # an own split of one folder
    return templates


def command(arguments: Sequence[str]) -> Iterator[str]:
    """`hf-cl` in a process of its own, line by line. Raises ValueError with its last words where it ends with an error."""
    words = [sys.executable, "-m", "hf_cl.cli", *arguments]
    newest: list[str] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip():
                newest = [*newest, line.rstrip()][-NEWEST_LINES:]
                yield line.rstrip()
    if child.returncode:
        raise ValueError(newest[-1].removeprefix("hf-cl: ") if newest else f"The training ended with status {child.returncode}.")


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy:.0f} %"
