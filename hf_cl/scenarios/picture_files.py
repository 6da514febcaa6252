"""Which files below a folder are pictures, and which are passed over."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hf_cl.pictures import opens_heif

logger = logging.getLogger(__name__)

_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
_HEIF = (".heic", ".heif")
_NOT_OPENED = (
    *(".svg", ".svgz", ".psd", ".ico", ".icns", ".jxl", ".eps", ".tga", ".dds", ".exr", ".hdr", ".jxr"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw", ".x3f", ".dcm"),
)
_NO_PICTURES = (
    *(".txt", ".json", ".jsonl", ".xml", ".csv", ".tsv", ".md", ".html", ".yaml", ".yml", ".py", ".npy", ".npz", ".mat", ".db", ".ini"),
    *(".parquet", ".arrow", ".zip", ".tar", ".gz", ".mp4", ".mov", ".avi", ".pdf", ".log", ".aae", ".xmp", ".thm"),
)
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*")
_TOOL_FOLDERS = frozenset(
    {
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharebin", "@tmp"),
        *("$recycle.bin", "system volume information", "lost+found", "__macosx", "__pycache__"),
    }
)
"""What network drives, systems and archives put into every folder: thumbnails and what was thrown away."""


@dataclass
class PictureFiles:
    """The picture files below a folder, sorted by path, and a count of the pictures that are passed over, by kind."""

    files: list[PurePosixPath] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)

    def say_passed_over(self, root: Path) -> None:
        """One logged line about pictures of kinds that are not opened."""
        if self.passed_over:
            logger.warning("%s: %s", root, self.remark())

    def remark(self) -> str:
        """What is passed over, in a sentence, with what to do."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.passed_over.items()))
        heif = (
            " HEIC photos are opened with the extra: pip install '.[heic]' in the clone of hf_cl." if _HEIF[0] in self.passed_over else ""
        )
        return f"pictures of kinds that are not opened are left out: {kinds}.{heif}"


def suffixes() -> tuple[str, ...]:
    """Endings of the files that are opened, lower case."""
    return (*_SUFFIXES, *_HEIF) if opens_heif() else _SUFFIXES


def picture_files(root: Path) -> PictureFiles:
    """All pictures below `root`, by their suffix. What `is_no_content` is skipped, links are followed."""
    found, opened = PictureFiles(), suffixes()
    for path, entry in _files(root, PurePosixPath(), (root.resolve(),)):
        suffix = path.suffix.lower()
        if suffix in opened:
            found.files.append(path)
        elif kind := _picture_kind(entry, suffix):
            found.passed_over[kind] += 1
    found.files.sort(key=lambda path: path.parts)
    return found


def is_no_content(name: str) -> bool:
    """Hidden, or a folder that a system, a network drive or an archive program made for itself."""
    return name.startswith(".") or name.casefold() in _TOOL_FOLDERS


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without those that are no content."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not is_no_content(entry.name))


def _picture_kind(path: str, suffix: str) -> str | None:
    """How the remark names a picture that is not opened; None for what is no picture."""
    if suffix in (*_HEIF, *_NOT_OPENED):
        return _HEIF[0] if suffix in _HEIF else suffix
    if suffix in _NO_PICTURES or not Path(path).is_file():
        return None
    try:
        with Path(path).open("rb") as file:
            start = file.read(12)
    except OSError:
        return None
    if (
        start.startswith(_BEGINNINGS)
        or (start[:4] == b"RIFF" and start[8:] == b"WEBP")
        or (start[4:8] == b"ftyp" and start[8:11] in (b"hei", b"avi", b"mif"))
    ):
        return suffix or "without a suffix"
    return None


def _files(folder: Path, relative: PurePosixPath, above: tuple[Path, ...]) -> Iterator[tuple[PurePosixPath, str]]:
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if is_no_content(entry.name):
            continue
        if not entry.is_dir():
            yield relative / entry.name, entry.path
        elif (target := Path(entry.path).resolve()) not in above:  # a link to a folder above would go round for ever
            yield from _files(Path(entry.path), relative / entry.name, (*above, target))
