"""What runs with a text head start from, on the disk: a tiny CLIP with its tokenizer, and folders of noisy pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import two_towers
from PIL import Image
from transformers import CLIPImageProcessor

NAMES = [f"w{i}" for i in range(10, 16)]


def processor() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"height": two_towers.SIDE, "width": two_towers.SIDE}, do_center_crop=False)


def write_base(folder: Path) -> Path:
    """A tiny CLIP as `from_pretrained` wants it."""
    two_towers.base("clip").save_pretrained(folder)  # pyright: ignore
    two_towers.tokenizer().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def write_photos(folder: Path, names: Sequence[str] = NAMES, train: int = 8, test: int = 2) -> Path:
    """One folder of training and one of test pictures per class: noise around one grey per class."""
    generator = np.random.default_rng(0)
    for i, name in enumerate(names):
        for split, count in (("train", train), ("test", test)):
            (folder / split / name).mkdir(parents=True)
            for k in range(count):
                pixels = np.clip(40 * i + generator.normal(0, 20, (two_towers.SIDE, two_towers.SIDE, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")
    return folder
