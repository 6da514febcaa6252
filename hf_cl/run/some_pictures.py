"""Pictures to look at an adapter with, where somebody asks for what it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from hf_cl.hub.fetch import adapter_folder
from hf_cl.results.saved_run import read_run, run_of
from hf_cl.run.look_at_pictures import picture_check
from hf_cl.scenarios import open_images

_COLUMNS = ("image_column", "label_column", "domain_column", "test_split")


def some_pictures(adapter: str | Path, dataset: str | None, most: int) -> Iterator[Image.Image]:
    """At most so many training pictures of a data set, evenly spread; of the adapter's own run where no data set is named.

    Raises ValueError where neither is known or the adapter is nowhere, and as `open_images` for a data set that cannot be opened.
    """
    settings: dict[str, Any] = {}
    if dataset is None:
        run = run_of(Path(adapter))
        if run is None:
            adapter_folder(adapter)  # one that is nowhere is said before pictures are asked for
            raise ValueError(f"{adapter} is in no run folder, so say which pictures to compare predictions on: --dataset, a few hundred.")
        saved = read_run(run).settings
        dataset = str(saved["dataset"])
        settings = {name: saved[name] for name in _COLUMNS if name in saved}
    source = open_images(dataset, **settings, skip_bad_images=True, check=picture_check("header"))
    images = source.train if source.unsplit is None else source.unsplit
    step = max(1.0, len(images) / most)
    return (images[int((i + 0.5) * step)]["image"] for i in range(min(len(images), most)))
