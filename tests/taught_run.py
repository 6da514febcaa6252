"""A run on a folder of photos that can be taught more, and photos of a class it does not know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.run import launch, parse_settings, run

GREYS = {"coal": 20, "fog": 200, "mouse": 110, "rose": 60}


def write_photos(folder: Path, name: str, count: int, seed: int = 0) -> list[Path]:
    """Noisy pictures of one grey each; other seeds are other pictures."""
    generator = np.random.default_rng([seed, GREYS[name]])
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}-{number}.png" for number in range(count)]
    for path in paths:
        pixels = np.clip(GREYS[name] + generator.normal(0, 12, (48, 48, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def train_photos(folder: Path, *, split: bool) -> Path:
    """Class means on two classes in two sessions. `split`: the data set says itself which pictures are tests."""
    for name in ("coal", "fog"):
        for seed, part in enumerate(("train", "test") if split else ("",)):
            write_photos(folder / "photos" / part / name, name, 5, seed)
    values = {"dataset": folder / "photos", "num_base_classes": 1, "classes_per_session": 1, "class_order": "natural"}
    flags = [word for key, value in values.items() for word in (f"--{key}", str(value))]
    flags += ["--config", "none", "--cpu", "--backbone", "demo", "--output_dir", str(folder / "run")]
    run(parse_settings(METHODS["nearest_class_mean"], "nearest_class_mean", flags))
    return folder / "run"


def in_this_process(arguments: Sequence[str]) -> Iterator[str]:
    """`hf-cl train` without a process of its own: the tests have torch loaded already."""
    _, method, *flags = arguments
    status = launch(run, METHODS[method], method, flags)
    if status:
        raise ValueError(f"status {status}")
    yield "done"
