"""A small run on disk with two sessions of scikit-learn's digits, for what reads run folders."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.run import parse_settings, run
from hf_cl.scenarios import open_images


def train_digits(folder: Path) -> Path:
    """Class means on the demo's backbone: two sessions, digits 0 to 4 and 5 to 9."""
    settings = {"dataset": "digits", "num_base_classes": 5, "classes_per_session": 5, "class_order": "natural", "output_dir": folder}
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    run(parse_settings(METHODS["nearest_class_mean"], "nearest_class_mean", [*flags, "--cpu"]))
    return folder


def digit(label: int, folder: Path) -> Path:
    """A test image of a digit, enlarged, as a file."""
    test = open_images("digits").test
    path = folder / f"a_{label}.png"
    test[int(test.positions_of(label)[0])]["image"].resize((96, 96), Image.Resampling.NEAREST).save(path)
    return path
