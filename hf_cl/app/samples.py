"""Test pictures that a run kept for its report, as files that the page offers."""

from __future__ import annotations

import atexit
import base64
import shutil
import tempfile
from pathlib import Path

from hf_cl.results.display import display_name
from hf_cl.results.examples import FILE, read_examples

OFFERED = 12


def folder_of_this_process() -> Path:
    """A new folder, which goes when the process ends."""
    place = tempfile.mkdtemp(prefix="hf_cl-app-")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return Path(place)


def write_samples(folder: Path) -> list[tuple[Path, str]]:
    """(file, true class) of some test pictures of a run; none where it kept none. The files go when the process ends."""
    if not (folder / FILE).is_file():
        return []
    place = folder_of_this_process()
    samples = []
    for number, example in enumerate(read_examples(folder)[:OFFERED]):
        head, _, body = example.image.partition(",")
        path = place / f"{number}.{'png' if 'png' in head else 'jpg'}"
        path.write_bytes(base64.b64decode(body))
        samples.append((path, display_name(example.true)))
    return samples
