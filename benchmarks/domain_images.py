"""Pictures in four looks, as one table with a column that says which: photo, colour, blur, contrast.

    python benchmarks/domain_images.py ./cifar100_small ./cifar_domains --classes 20

Every picture is in one domain, so no picture is trained on twice and none is tested in another look: of each class the first is a photo
as it is, the second has its hues turned by a third of the circle, the third is blurred, the fourth has a quarter of its contrast, and so
on. For folders of parquet files with the columns of `uoft-cs/cifar100` and files that are called after their split; the looks are kornia's.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import kornia
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

DOMAINS: dict[str, Callable[[Tensor], Tensor]] = {  # [1, 3, H, W] in 0 to 1 each
    "photo": lambda pixels: pixels,
    "colour": lambda pixels: kornia.enhance.adjust_hue(pixels, 2 * math.pi / 3),
    "blur": lambda pixels: kornia.filters.gaussian_blur2d(pixels, 7, (1.2, 1.2)),
    "contrast": lambda pixels: kornia.enhance.adjust_contrast_with_mean_subtraction(pixels, 0.25),
}


def looking_like(domain: str, image: bytes) -> bytes:
    """A picture in another look, as PNG."""
    pixels = torch.from_numpy(np.array(Image.open(BytesIO(image)).convert("RGB"))).permute(2, 0, 1)[None].float() / 255  # [1, 3, H, W]
    changed = (DOMAINS[domain](pixels).clamp(0, 1) * 255).round().to(torch.uint8)[0].permute(1, 2, 0)  # [H, W, 3]
    buffer = BytesIO()
    Image.fromarray(changed.numpy()).save(buffer, "png")
    return buffer.getvalue()


def in_domains(table: pa.Table, classes: int | None) -> pa.Table:
    """The rows of the first `classes` labels, of each label in turn in all domains."""
    seen: dict[int, int] = {}
    rows: list[int] = []
    domains: list[str] = []
    for row, label in enumerate(table["fine_label"].to_pylist()):
        if classes is None or label < classes:
            rows.append(row)
            domains.append([*DOMAINS][seen.get(label, 0) % len(DOMAINS)])
            seen[label] = seen.get(label, 0) + 1
    taken, at = table.take(rows), table.column_names.index("img")
    made = [
        {"bytes": looking_like(domain, item["bytes"]), "path": None} for domain, item in zip(domains, taken["img"].to_pylist(), strict=True)
    ]
    pictures = taken.set_column(at, table.schema.field("img"), pa.array(made, table.schema.field("img").type))
    return pictures.append_column("domain", pa.array(domains))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--classes", type=int, help="the first so many labels alone")
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    for split in ("train", "test"):
        files = sorted(options.dataset.glob(f"*{split}*.parquet"))
        if not files:
            parser.error(f"{options.dataset} has no parquet file of the split {split!r}")
        whole = pa.concat_tables([pq.read_table(file) for file in files])
        pq.write_table(in_domains(whole, options.classes), options.output / f"{split}.parquet")


if __name__ == "__main__":
    main()
