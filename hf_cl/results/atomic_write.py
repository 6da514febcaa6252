"""Files that are whole or absent: written aside, synced, renamed."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, data: str | bytes) -> None:
    """Replace `path` by `data` in one move; killed or out of space at any moment, the old file is still there. Text is UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    aside = path.with_name(f".writing-{path.name}")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
