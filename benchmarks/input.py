"""Reading and augmenting images against Pillow and torchvision in two workers, and against a training step (data.py)."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets

from benchmarks import ours
from benchmarks.data import CASES, measure, write_parquet
from benchmarks.measure import Options, Row, seconds
from hf_cl.methods import ovor

IMAGES = 512


def rows(options: Options) -> Iterator[Row]:
    """On a CPU by images per second of processor time over all processes and threads: what is left for training."""
    datasets.disable_progress_bars()
    arguments = argparse.Namespace(
        device=options.device.type, images=IMAGES, batch_size=32, workers=2, repeats=max(3, options.repeats // 2)
    )
    on_cpu = options.device.type == "cpu"
    step = _seconds_per_image(options)
    for name, file_format, sides, size in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.parquet"
            write_parquet(path, IMAGES, file_format, sides)
            theirs, first, later = [both[int(on_cpu)] for both in measure(path, size, arguments)]
        goal = ">= 2" if on_cpu else ">= 3"
        detail = f"{later:.0f} against {theirs:.0f} images/s; with decoding, in the first epoch, {first / theirs:.1f}"
        yield Row("data", f"{name}, later epochs", "Pillow and torchvision", later / theirs, goal, detail)
        if size == 224:
            yield Row("data", f"{name}, input over step", "a training step, tiny", 1 / later / step, "<= 0.05", "time per image")


def _seconds_per_image(options: Options) -> float:
    mine = ours.OurStep(ours.vit(), ovor(epochs=1, vor_epochs=0), ours.session(), ours.accelerator(options.device))
    count = ours.BATCH["tiny"]
    batch = mine.batch(ours.images(count, options.device), labels=ours.labels(count, options.device))
    times = sorted(seconds(lambda: mine(batch), options.device) for _ in range(4))
    return times[1] / count
