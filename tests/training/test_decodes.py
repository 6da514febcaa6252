"""How often pictures are decoded over all processes of a machine: once each, however many there are and however often a run is started."""

from __future__ import annotations

from pathlib import Path

import decode_case
import numpy as np
import pytest
from PIL import Image
from processes import run

CASE = Path(decode_case.__file__)
PER_CLASS, CLASSES = {"train": 5, "test": 2}, 4


@pytest.fixture
def photos(tmp_path) -> Path:
    """Larger than what is kept of them."""
    rng = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for label in range(CLASSES):
            folder = tmp_path / "photos" / split / f"class {label}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (90, 70 + i, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "photos"


def decodes(photos: Path, folder: Path, processes: int) -> list[int]:
    """Pictures decoded by each process."""
    done = run(CASE, photos, folder, processes=processes)
    assert done.status == 0, done.output[-4000:]
    return [int(path.read_text()) for path in sorted(folder.glob("decoded-*.txt"))]


@pytest.mark.distributed
@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_each_picture_is_decoded_once_by_all_processes_together(photos, tmp_path, processes, monkeypatch):
    monkeypatch.setenv("HF_CL_CACHE", str(tmp_path / "cache"))
    total = CLASSES * sum(PER_CLASS.values())
    first = decodes(photos, tmp_path / "first", processes)
    assert len(first) == processes and sum(first) == total, "the look at the pictures is all the decoding there is"
    again = decodes(photos, tmp_path / "again", processes)
    assert sum(again) == total, "nothing is looked at again, and each picture is decoded where it is first needed"
    assert max(again) < total, "the processes share the work"
