"""What pictures cost: how often they are opened and decoded, and how much memory that takes.

One function per row or few, listed in `ROWS`. What must begin anew, or under a limit of its own, runs as a process:
`python -m benchmarks.scale_pictures run DATA FOLDER BASE` and `... photos DATA`, which print one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from benchmarks.measure import MIB, LivePeak, Options, Row
from hf_cl.byte_sizes import byte_size
from hf_cl.images import Forms, PixelStore, Preprocessor, build_augmentation, free_memory
from hf_cl.images.batches import train_batches
from hf_cl.images.crops import random_boxes
from hf_cl.images.decode import shrink
from hf_cl.images.resample import padded, resize_by_products
from hf_cl.methods.baselines import LoraSettings
from hf_cl.run import train
from hf_cl.run.look_at_pictures import picture_check
from hf_cl.scenarios import ImageSet, open_images
from hf_cl.scenarios.image_store import FileStore
from hf_cl.settings import RunSettings
from hf_cl.training import SessionLoop

CLASSES = 10
PHOTOS, DISTINCT = 320, 12
LIMIT = 5 << 30
"""Bytes of private memory that the process with photos may take."""


def rows(options: Options) -> Iterator[Row]:
    for make in ROWS:
        yield from make(options)


# Pictures opened
def opened(options: Options) -> Iterator[Row]:
    """Two starts, a resume of the ended run and a start of two processes, over a folder of small JPEGs; two sessions, two epochs."""
    for count in [2_000, 20_000] + ([100_000] if options.large else []):
        with tempfile.TemporaryDirectory() as folder:
            data, base = Path(folder) / "photos", Path(folder) / "base"
            write_pictures(data, count)
            _write_base(base)
            name, cache = f"{count:,} pictures", Path(folder) / "cache"
            first, again, resumed = (_run(data, Path(folder) / run, base, cache) for run in ("first", "again", "first"))
            two = _run(data, Path(folder) / "two", base, cache, processes=2)
        detail = f"{first['seconds_before']:.1f} s of processor before training, {first['before']} decoded then"
        yield Row("scale", f"decoded in a run, {name}", "pictures", first["all"] / count, "<= 1.01", detail)
        detail = f"{again['seconds_before']:.1f} s of processor; in the whole run {again['all'] / count:.3f} of all are decoded"
        yield Row("scale", f"opened before training by a second start, {name}", "pictures", again["before"] / count, "<= 0", detail)
        detail = f"{resumed['seconds']:.1f} s of processor in all"
        yield Row("scale", f"opened by a resume of the ended run, {name}", "pictures", resumed["all"] / count, "<= 0", detail)
        yield Row("scale", f"decoded by 2 processes together, {name}", "pictures", two["all"] / count, "<= 1.01")


def write_pictures(folder: Path, count: int, side: int = 64) -> None:
    """JPEGs of noise in `CLASSES` folders of train and test, four to one."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, side, side, 3), dtype=np.uint8)
    for split, share in (("train", 0.8), ("test", 0.2)):
        for label in range(CLASSES):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for i in range(round(count * share / CLASSES)):
                Image.fromarray(pixels[(i + 7 * label) % 64]).save(place / f"{i}.jpg", quality=80)


def _write_base(folder: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTForImageClassification(ViTConfig(**sizes, image_size=48, patch_size=16, num_labels=2)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(folder)


def _run(data: Path, folder: Path, base: Path, cache: Path, processes: int = 1) -> dict[str, float]:
    """What a run printed, summed over its processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    found = _child([*launcher, "-m", "benchmarks.scale_pictures", "run", str(data), str(folder), str(base)], cache)
    return {name: sum(line[name] for line in found) for name in found[0]}


def _child(arguments: list[str], cache: Path) -> list[dict[str, float]]:
    environment = {**os.environ, "HF_CL_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    lines = [json.loads(line.partition(" ")[2]) for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if done.returncode or not lines:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return lines


def _tell(found: dict[str, float]) -> None:
    sys.stdout.write(f"FOUND {json.dumps(found)}\n")
    sys.stdout.flush()


def run_and_count(data: str, folder: str, base: str) -> None:
    """One run by the command line's way, in this process."""
    touched: Counter[str] = Counter()
    before: dict[str, float] = {}
    opens, decodes, fit = FileStore.open, FileStore.decode, SessionLoop.fit

    def counted(method: Callable[[FileStore, int], Image.Image]) -> Any:
        def wrapper(store: FileStore, row: int) -> Image.Image:
            touched["all"] += 1
            return method(store, row)

        return wrapper

    def from_here(loop: SessionLoop) -> Any:
        before.update(before=touched["all"], seconds_before=time.process_time())
        return fit(loop)

    FileStore.open, FileStore.decode, SessionLoop.fit = counted(opens), counted(decodes), from_here
    train(
        LoraSettings(
            output_dir=folder, dataset=data, backbone=base, epochs=2, head={"type": "prototype"}, batch_size=64, num_base_classes=5,
            classes_per_session=5, cpu=True, resume="auto" if (Path(folder) / "results.json").exists() else None,
        ),
        quiet=True,
    )  # fmt: skip
    _tell({"all": touched["all"], "seconds": time.process_time(), **before})


# Memory
def photos(options: Options) -> Iterator[Row]:
    """Photos of 12 megapixels, looked at and kept for training, in a process that may take 5 GiB of memory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "photos" / "one class"
        data.mkdir(parents=True)
        rng = np.random.default_rng(0)
        for i in range(DISTINCT):
            small = Image.fromarray(rng.integers(0, 256, (150, 200, 3), dtype=np.uint8))
            small.resize((4000, 3000), Image.Resampling.BILINEAR).save(data / f"{i:03d}.jpg", quality=85)
        for i in range(DISTINCT, PHOTOS):
            os.link(data / f"{i % DISTINCT:03d}.jpg", data / f"{i:03d}.jpg")
        (found,) = _child(["-m", "benchmarks.scale_pictures", "photos", str(data.parent)], Path(folder) / "cache")
    detail = f"{found['peak'] / MIB:.0f} MiB more than before, of which {found['kept'] / MIB:.0f} are pixels kept; "
    detail += f"budget {found['budget'] / MIB:.0f} MiB; {found['seconds'] / PHOTOS * 1e3:.0f} ms of processor per photo"
    beyond = (found["peak"] - found["kept"]) / MIB
    yield Row("scale", f"{PHOTOS} photos of 12 megapixels under 5 GiB", "MiB beyond the pixels kept", beyond, "<= 600", detail)


def look_at_photos(data: str) -> None:
    """The look and the training pixels of one class, with settings as they come."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    settings = RunSettings(output_dir="unused", dataset=data)
    preprocessor = Preprocessor(ViTImageProcessor())
    budget = byte_size(settings.image_memory, free_memory())
    forms = Forms(preprocessor, build_augmentation(settings.augmentation, preprocessor))
    store = PixelStore(forms, budget=budget, workers=settings.num_workers)
    started, before = time.process_time(), _resident()
    with _Peak() as peak:
        source = open_images(data, check=picture_check("changed", store))
        images: ImageSet = source.train
        store.training(images)
    kept, spent = store.num_bytes, time.process_time() - started
    _tell({"peak": peak.most - before, "kept": kept, "budget": budget, "seconds": spent})


def _resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class _Peak:
    """Looks at `_resident` every few milliseconds."""

    def __init__(self) -> None:
        self.most, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.most = max(self.most, _resident())

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def odd_shapes(options: Options) -> Iterator[Row]:
    """Bytes on the device of the crops of 64 pictures, two of them 10:1 and 1:10, against 64 squares."""
    rng, size, batch = np.random.default_rng(0), 224, 64
    side = Forms(Preprocessor(ViTImageProcessor()), build_augmentation("crop_flip", Preprocessor(ViTImageProcessor()))).max_side
    square = shrink(Image.new("RGB", (512, 512)), side)
    odd = [shrink(Image.new("RGB", sides), side) for sides in ((5120, 512), (512, 5120))]
    draws = rng.random((batch, 22))

    def peak(images: list[np.ndarray]) -> int:
        boxes = random_boxes(np.array([image.shape[:2] for image in images]), draws, (0.08, 1.0), (3 / 4, 4 / 3))
        with LivePeak() as counter:  # the way of a GPU, on the CPU
            cut = [image[t : t + h, left : left + w] for image, (t, left, h, w) in zip(images, boxes.tolist(), strict=True)]
            at_corner = np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, 2:]], axis=1)
            resize_by_products(padded(cut).clone(), at_corner, np.zeros(len(images), dtype=bool), size)
        return counter.peak

    squares, mixed = peak([square] * batch), peak([square] * (batch - 2) + odd)
    detail = f"{mixed / MIB:.0f} MiB on the device"
    yield Row("scale", "batch with a 10:1 and a 1:10 picture", "a batch of squares", mixed / squares, "<= 2", detail)


# Epochs
def epochs(options: Options) -> Iterator[Row]:
    """Later epochs over 1,000 pictures whose pixels lie in memory, in the cache on disk, or nowhere."""
    processor = Preprocessor(ViTImageProcessor())
    augmentation = build_augmentation("crop_flip", processor)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / "photos", 1_250, side=256)
        images = open_images(Path(folder) / "photos", check=lambda images: []).train
        stores = {
            "memory": PixelStore(Forms(processor, augmentation), budget=4 << 30),
            "disk": PixelStore(Forms(processor, augmentation), budget=0, cache=Path(folder) / "cache"),
            "nowhere": PixelStore(Forms(processor, augmentation), budget=0),
        }
        plan = [range(first, min(first + 64, len(images))) for first in range(0, len(images), 64)]
        seconds: dict[str, list[float]] = {name: [] for name in stores}
        kept = {name: store.training(images) for name, store in stores.items()}
        assert [view.num_kept for view in kept.values()] == [len(images), len(images), 0]
        for epoch in range(max(3, options.repeats // 2)):
            for name, view in islice(kept.items(), 2 if epoch > 2 else 3):
                started = time.process_time()
                for _ in train_batches(view, augmentation, processor, plan, seed=0, epoch=epoch, device=torch.device("cpu")):
                    pass
                seconds[name].append(time.process_time() - started)
    memory, disk, nowhere = (float(np.median(times)) for times in seconds.values())
    detail = f"{1e3 * disk:.0f} against {1e3 * memory:.0f} ms; decoded in each epoch {nowhere / memory:.1f}"
    yield Row("scale", "epoch from --image_cache, 1,000 pictures of 256 px", "from memory", disk / memory, "<= 1.3", detail)


ROWS: list[Callable[[Options], Iterator[Row]]] = [odd_shapes, epochs, photos, opened]

if __name__ == "__main__":
    {"run": run_and_count, "photos": look_at_photos}[sys.argv[1]](*sys.argv[2:])
