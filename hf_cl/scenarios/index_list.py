"""Lists that name images, one a line: by row number or by file. What the three kinds of `--index_list` share.

`session_lists` (few-shot), `shot_lists` (few-shot tuning) and `split_lists` (train.txt, test.txt) read them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hf_cl.errors import DataError, exists, first_ten
from hf_cl.scenarios.image_set import ImageSet
from hf_cl.scenarios.sources import normalized

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class Line:
    """A line of a list, stripped; as text, `<file>, line <number>`."""

    file: Path
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.number}"


def read_list(file: Path) -> list[Line]:
    """The lines of a file that are not empty. Raises DataError where there is no such file, or nothing in it."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list {file} cannot be read: {error}.") from error
    lines = [Line(file, number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    if not lines:
        raise DataError(f"The list {file} is empty.")
    return lines


def digest(lists: Iterable[Sequence[Line]]) -> str:
    """Identity of lists: sha256, in hexadecimal, over all lines in order, stripped, each with a newline."""
    return hashlib.sha256("".join(f"{line.text}\n" for lines in lists for line in lines).encode()).hexdigest()


def list_folder(index_list: str | os.PathLike[str], short_name: str, file: str) -> Path:
    """The folder that holds `file`: `index_list`, or its subfolder named after the data set. Raises DataError."""
    root = Path(index_list).expanduser()
    if not (exists(root) and root.is_dir()):
        raise DataError(f"--index_list {root} is not a folder.")
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    for folder in (root, *(entry for entry in folders if normalized(entry.name) == short_name)):
        if (folder / file).is_file():
            return folder
    listed = f"; its folders are {first_ten(entry.name for entry in folders)}" if folders else ""
    raise DataError(f"--index_list {root} holds neither {file} nor {short_name}/{file}{listed}.")


class ImageFinder:
    """Finds the image a list means.

    A number is a row of the split. A name is a file: the last two parts of its path, `<class>/<file>`, must fit one image, or as many more
    as it takes to tell images apart; where the data set kept file names without folders, the last part alone.
    """

    def __init__(self, images: ImageSet, kind: str) -> None:
        self.images = images
        self.kind = kind
        self._position_of = {int(row): position for position, row in enumerate(images.indices)}
        self._paths = [PurePosixPath(name).parts for name in images.file_names or ()]
        self._depth = 2 if any(len(parts) > 1 for parts in self._paths) else 1
        self._by_end: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for position, parts in enumerate(self._paths):
            self._by_end[parts[-self._depth :]].append(position)

    def find(self, line: Line, text: str | None = None) -> int:
        """Position in `images` of what `text` (default: the whole line) names. Raises DataError with file and line."""
        text = line.text if text is None else text
        if _INTEGER.fullmatch(text):
            return self._row(line, int(text))
        if not self._paths:
            raise DataError(f"{line}: {text!r} is a file name, but the images of this data set are known by row number only.")
        parts = PurePosixPath(text.replace("\\", "/")).parts
        found = self._by_end.get(parts[-self._depth :], [])
        if len(found) > 1:
            shared = {position: _common_end(parts, self._paths[position]) for position in found}
            found = [position for position in found if shared[position] == max(shared.values())]
        if not found:
            raise DataError(f"{line}: {text!r} is none of the {len(self.images)} {self.kind}, such as {self.images.describe(0)!r}.")
        if len(found) > 1:
            raise DataError(f"{line}: {text!r} fits several {self.kind}: {first_ten(map(self.images.describe, found))}.")
        return found[0]

    def _row(self, line: Line, row: int) -> int:
        if row in self._position_of:
            return self._position_of[row]
        total = len(self.images.store)
        reason = f"it has {total} rows, 0..{total - 1}" if not 0 <= row < total else f"the row exists but is none of the {self.kind}"
        raise DataError(f"{line}: row {row} is not there: {reason}.")


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    return length


class OnceOnly:
    """Remembers where each image stood, and refuses it a second time."""

    def __init__(self) -> None:
        self._line_of: dict[int, Line] = {}

    def add(self, position: int, line: Line) -> None:
        """Raises DataError naming both lines."""
        if position in self._line_of:
            raise DataError(f"{line}: {line.text!r} is the same image as {self._line_of[position]}.")
        self._line_of[position] = line
