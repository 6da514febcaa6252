"""Runs the blocks of documents that are marked ```python test, in order, in one namespace per document.

    python run_snippets.py README.md CONTRIBUTING.md

The working directory becomes what a reader has: a run of the demo, some photos, a picture of a digit. There are six digits of each class.
"""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import numpy as np
import sklearn.datasets
from PIL import Image

PER_CLASS = 6
BLOCK = re.compile(r"^```python test\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path) -> list[str]:
    """Source of the marked blocks, with as many empty lines in front as put a traceback on the document's lines."""
    text = document.read_text()
    return ["\n" * (text[: match.start()].count("\n") + 1) + match[1] for match in BLOCK.finditer(text)]


def six_of_each(load=sklearn.datasets.load_digits):
    digits = load()
    few = np.concatenate([np.flatnonzero(digits.target == label)[:PER_CLASS] for label in range(10)])
    digits.images, digits.target = digits.images[few], digits.target[few]
    return digits


def commands_of_the_readme() -> None:
    """The README's two `hf-cl train` lines, with one epoch, and own images without the network."""
    from hf_cl.methods import OvorSettings
    from hf_cl.run import parse_settings, run, train

    random = np.random.default_rng(0)
    for name in ("cat", "dog", "rabbit"):
        folder = Path("my_photos", name)
        folder.mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    Image.fromarray(sklearn.datasets.load_digits().images[3].astype(np.uint8) * 16).save("digit.png")
    run(parse_settings(OvorSettings, "ovor", ["--config", "demo", "--output_dir", "runs/demo", "--epochs", "1"]))
    own = ["--config", "own_images", "--dataset", "./my_photos", "--output_dir", "runs/photos"]
    train(parse_settings(OvorSettings, "ovor", [*own, "--backbone", "demo", "--epochs", "1"]), quiet=True)


def main(documents: list[Path]) -> None:
    sklearn.datasets.load_digits = six_of_each
    commands_of_the_readme()
    sys.modules["__snippet__"] = type(sys)("__snippet__")  # dataclasses look their module up
    for document in documents:
        namespace: dict[str, object] = {"__name__": "__snippet__"}
        for source in blocks(document):
            exec(compile(source, str(document), "exec"), namespace)


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
    main([Path(argument) for argument in sys.argv[1:]])
