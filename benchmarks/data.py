"""How fast images get from a parquet data set to augmented batches on the device.

    python benchmarks/data.py [--device cuda]

Both sides read the same data set object and make the same batches: random resized crop (bicubic), flip, normalisation, on the device.
Theirs decodes and augments with Pillow and torchvision in two DataLoader workers (which live on from epoch to epoch; their start is not
counted). Ours decodes once in two threads and augments batches on the device; its first epoch counts the decoding, later ones do not.
Figures are medians over the repeats of one run; ratios are of those medians. The last two ratios compare images per second of processor
time over all processes and threads: what is left for everything else, and what holds where other programs share the machine.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from transformers import ViTImageProcessor

from hf_cl.images import Forms, PixelStore, Preprocessor, StoredImages, build_augmentation, plan, train_batches

CASES = [
    # name, file format, sides of the sources, side of the model
    ("32 px PNG -> 48", "PNG", (32, 33), 48),
    ("32 px PNG -> 224", "PNG", (32, 33), 224),
    ("224 px JPEG -> 224", "JPEG", (224, 225), 224),
    ("224-400 px JPEG -> 224", "JPEG", (224, 400), 224),
]


class ParquetImages:
    """The image column of a parquet file as hf_cl wants it, and as a DataLoader of torch wants it."""

    def __init__(self, path: Path, transform: Callable[[Image.Image], torch.Tensor] | None = None) -> None:
        self.rows = datasets.Dataset.from_parquet(str(path), keep_in_memory=True, cache_dir=str(path.parent))
        self.labels: list[int] = list(self.rows["label"])
        self.indices = list(range(len(self.labels)))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> Any:
        row = self.rows[position]
        image = row["image"].convert("RGB")
        if self.transform is None:
            return {"image": image, "label": row["label"], "index": position}
        return self.transform(image), row["label"], position


def write_parquet(path: Path, images: int, file_format: str, sides: tuple[int, int]) -> None:
    """Smooth random pictures with some noise, so that they compress about as photographs do."""
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(images):
        width, height = (int(side) for side in rng.integers(*sides, size=2))
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        noisy = np.clip(np.asarray(coarse) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, file_format)
        cells.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    table = pa.table({"image": cells, "label": rng.integers(0, 100, images)}, schema=features.arrow_schema)
    pq.write_table(table, path)


def run(batches: Iterable[Any], device: torch.device) -> int:
    """Go through an epoch and wait for the device; returns the number of images."""
    seen = 0
    for batch in batches:
        pixels = batch["pixel_values"] if isinstance(batch, dict) else batch[0].to(device, non_blocking=True)
        seen += len(pixels)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seen


def processor_seconds() -> float:
    """Processor time of this process and its children so far."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def torchvision_loader(path: Path, size: int, batch_size: int, workers: int, device: torch.device) -> DataLoader[Any]:
    """What is usually written."""
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return DataLoader(
        ParquetImages(path, transform),  # pyright: ignore[reportArgumentType]
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )


def measure(path: Path, size: int, args: argparse.Namespace) -> list[tuple[float, float]]:
    """(Images per second, images per second of processor time): theirs, ours in the first epoch, ours in later epochs."""
    device = torch.device(args.device)
    theirs = torchvision_loader(path, size, args.batch_size, args.workers, device)
    preprocessor = Preprocessor(ViTImageProcessor(size={"height": size, "width": size}, resample=3))
    augmentation = build_augmentation("crop_flip", preprocessor)
    images = ParquetImages(path)

    def decode() -> StoredImages:
        return PixelStore(Forms(preprocessor, augmentation), workers=args.workers).training(images)

    def ours(decoded: StoredImages) -> Iterable[Any]:
        batches = plan(len(images), args.batch_size, (0,))
        return train_batches(decoded, augmentation, preprocessor, batches, seed=0, epoch=0, device=device)

    run(theirs, device)  # starts the workers
    decoded = decode()
    run(ours(decoded), device)
    sides: list[Callable[[], Iterable[Any]]] = [lambda: theirs, lambda: ours(decode()), lambda: ours(decoded)]
    times: list[list[tuple[float, float]]] = [[], [], []]
    for _ in range(args.repeats):
        for side, kept in zip(sides, times, strict=True):
            begin, spent = time.perf_counter(), processor_seconds()
            seen = run(side(), device)
            kept.append(((time.perf_counter() - begin) / seen, (processor_seconds() - spent) / seen))
    return [(1 / statistics.median(t[0] for t in kept), 1 / statistics.median(t[1] for t in kept)) for kept in times]


def main() -> None:
    datasets.disable_progress_bars()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=512, help="images per data set")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="processes of theirs, threads of ours")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} torch threads, {args.workers} workers, batch {args.batch_size}, {args.device}; images/s, then ratios")
    heads = ["torchvision", "first epoch", "later epochs", "first", "later", "first, CPU", "later, CPU"]
    print(f"{'source -> model':24}" + "".join(f"{head:>14}" for head in heads))
    for name, file_format, sides, size in CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.parquet"
            write_parquet(path, args.images, file_format, sides)
            theirs, first, later = measure(path, size, args)
        speeds = "".join(f"{speed:14.0f}" for speed, _ in (theirs, first, later))
        ratios = "".join(f"{ours[kind] / theirs[kind]:13.1f}x" for kind in range(2) for ours in (first, later))
        print(f"{name:24}" + speeds + ratios)


if __name__ == "__main__":
    main()
