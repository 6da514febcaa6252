"""The mark "joint": a training of its own beside the run, on all of the run's images at once."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.results.results import Results
from hf_cl.run import parse_settings
from hf_cl.run.joint import JOINT
from hf_cl.run.runs import run


def test_class_means_of_one_session_are_those_of_many(tmp_path):
    """A head that forgets nothing ends where one session ends, so the mark must be the run's own final accuracy."""
    rng = np.random.default_rng(0)
    for split, images in (("train", 3), ("test", 4)):
        for label in range(4):
            folder = tmp_path / "photos" / split / f"class {label}"
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = np.full((8, 8, 3), 30 * label + rng.integers(0, 100))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    words = {"dataset": tmp_path / "photos", "backbone": "demo", "num_base_classes": 2, "classes_per_session": 2, "augmentation": "none"}
    words |= {"marks": "[joint]", "output_dir": tmp_path / "run"}
    method = "nearest_class_mean"
    results = run(parse_settings(METHODS[method], method, [f"--{name}={value}" for name, value in words.items()]))
    final = results.metrics["final_accuracy"]
    assert isinstance(final, float) and 0 < final < 1 and len(results.sessions) == 2
    assert results.comparisons == {JOINT: final}
    assert len(Results.load(tmp_path / "run" / "marks" / "joint" / "results.json").sessions) == 1
    assert JOINT in (tmp_path / "run" / "README.md").read_text()
