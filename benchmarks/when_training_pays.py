"""What training an adapter in the first session adds to the best closed-form head: the map and the figure of docs/choosing_a_method.md.

    python benchmarks/thin_images.py ./cifar100_small ./cifar100_20_30 --train 20 --test 30
    python benchmarks/when_training_pays.py ./cifar100_20_30 --output_dir runs/pays

Three collections: the folder that is given (parquet files with the columns of `uoft-cs/cifar100`), drawings made of it by kornia (edges,
dark on white: the same classes, far from what the backbone has seen), and scikit-learn's digits, which have ten classes. Session 0 has 2,
10, 30 or 60 classes (of digits 2 or 5), a second session all others. Each adapter trains in session 0 for the same number of steps, and a
Gaussian head is fitted after each session; what it adds is its final accuracy less that of the same head on the untouched backbone, in the
same sessions. Finished runs are read, so a program that was stopped goes on. `map.md` and `when-training-pays.png` are the outcome.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from hf_cl.methods import METHODS
from hf_cl.results.report_figures import LIGHT
from hf_cl.results.results import Results
from hf_cl.run import parse_settings, quiet_libraries, train

SIZES = {"CIFAR": (2, 10, 30, 60), "drawings of CIFAR": (2, 10, 30, 60), "digits": (2, 5)}
DIGITS = 144
"""Training images of a digit."""
ADAPTERS: dict[str, dict[str, Any]] = {"lora": {}, "ovor": {"vor_epochs": 0}, "sara": {}}
BATCH = 32


def drawing(image: Image.Image) -> Image.Image:
    """Its edges, dark on white: the magnitude of the Sobel gradient of its grey levels, the strongest black."""
    grey = torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32))[None, None] / 255  # [1, 1, H, W]
    edges = kornia.filters.sobel(grey)
    edges = edges / edges.max().clamp_min(1e-6)
    return Image.fromarray((255 * (1 - edges[0, 0])).round().to(torch.uint8).numpy()).convert("RGB")


def draw_all(source: Path, target: Path) -> Path:
    """The drawings of a folder of parquet files, made once."""
    if target.exists():
        return target
    aside = target.with_name(f".writing-{target.name}")
    aside.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.glob("*.parquet")):
        table = pq.read_table(file)
        drawn = []
        for item in table["img"].to_pylist():
            buffer = BytesIO()
            drawing(Image.open(BytesIO(item["bytes"]))).save(buffer, "png")
            drawn.append({"bytes": buffer.getvalue(), "path": None})
        at = table.column_names.index("img")
        pq.write_table(table.set_column(at, table.schema.field("img"), pa.array(drawn, table.schema.field("img").type)), aside / file.name)
    aside.rename(target)
    return target


def accuracy(method: str, folder: Path, values: dict[str, Any], finished: bool) -> float | None:
    """The final accuracy of a run; of one that is finished, as it is written down. None where `finished` and it is not."""
    settings = parse_settings(METHODS[method], method, [f"--{key}={json.dumps(value)}" for key, value in values.items()])
    results = folder / "results.json"
    found = Results.load(results) if results.exists() else None
    if found is None or len(found.sessions) < 2:
        if finished:
            return None
        started = time.process_time()
        found = train(settings, quiet=True).results.results
        print(f"{folder}: {found.metrics['final_accuracy']:.4f}, {time.process_time() - started:.0f} s of processor", flush=True)
    return float(found.metrics["final_accuracy"])  # pyright: ignore[reportArgumentType]


def gains(options: argparse.Namespace) -> dict[tuple[str, str, int], list[float]]:
    """(collection, adapter, classes of session 0) -> what the adapter adds, in points, by class order."""
    data = {"CIFAR": str(options.dataset), "drawings of CIFAR": str(draw_all(options.dataset, options.output_dir / "drawings"))}
    data["digits"] = "digits"
    found: dict[tuple[str, str, int], list[float]] = {}
    for seed in options.seeds:
        for name in options.collections:
            columns = {} if name == "digits" else {"image_column": "img", "label_column": "fine_label"}
            for size in SIZES[name]:
                if options.sizes and size not in options.sizes:
                    continue
                classes = 10 if name == "digits" else 100
                common = {
                    "dataset": data[name],
                    **columns,
                    "backbone": "demo",
                    "num_base_classes": size,
                    "classes_per_session": classes - size,
                    "class_order_seed": seed,
                    "seed": seed,
                    "head": {"type": "gaussian"},
                    "augmentation": "none",
                    "mixed_precision": "bf16",
                    "batch_size": BATCH,
                    "keep_adapters": "last",
                    "feature_cache": str(options.output_dir / "features"),
                    "resume": "auto",
                }
                at = options.output_dir / name.replace(" ", "-") / f"{size}-classes" / f"seed-{seed}"
                mark = accuracy("frozen", at / "frozen", {**common, "output_dir": str(at / "frozen")}, options.finished)
                images = size * (DIGITS if name == "digits" else options.images)
                epochs = max(1, round(options.steps / math.ceil(images / BATCH)))
                for adapter in options.adapters:
                    own = {**common, **ADAPTERS[adapter], "epochs": epochs, "adapt_sessions": "first", "output_dir": str(at / adapter)}
                    reached = accuracy(adapter, at / adapter, own, options.finished)
                    if reached is not None and mark is not None:
                        found.setdefault((name, adapter, size), []).append(100 * (reached - mark))
    return found


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation (n - 1)."""
    return f"{statistics.mean(values):+.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def table(found: dict[tuple[str, str, int], list[float]], adapters: Sequence[str]) -> str:
    """Markdown: a row per collection and adapter, a column per size of session 0."""
    sizes = sorted({size for _, _, size in found})
    lines = [["images", "adapter", *(f"{size} classes" for size in sizes)], ["---"] * (2 + len(sizes))]
    for name in SIZES:
        for adapter in adapters:
            cells = [spread(found[key]) if (key := (name, adapter, size)) in found else "" for size in sizes]
            lines.append([name, f"`{adapter}`", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(found: dict[tuple[str, str, int], list[float]], adapters: Sequence[str]) -> Figure:
    """A panel per collection; a dot per class order, a line through the means."""
    drawn = Figure(figsize=(9, 3.2), layout="constrained", facecolor=LIGHT.surface)
    panels = drawn.subplots(1, len(SIZES), sharey=True, width_ratios=[4, 4, 2])
    for axes, (name, sizes) in zip(panels, SIZES.items(), strict=True):
        axes.axhline(0, color=LIGHT.ink, linewidth=1)
        for number, (adapter, color) in enumerate(zip(adapters, LIGHT.series, strict=False)):
            known = [found.get((name, adapter, size), []) for size in sizes]
            aside = 0.08 * (number - (len(adapters) - 1) / 2)
            means = [statistics.mean(values) if values else math.nan for values in known]  # no line over a size that was not measured
            axes.plot([at + aside for at in range(len(sizes))], means, color=color, linewidth=1.8, label=adapter)
            for at, values in enumerate(known):
                axes.plot([at + aside] * len(values), values, "o", color=color, markersize=5)
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
        axes.set_xlabel("classes of session 0", color=LIGHT.muted)
        axes.set_title(name, loc="left", fontsize=9.5, color=LIGHT.muted)
        axes.grid(axis="y", color=LIGHT.grid, linewidth=0.8)
        axes.tick_params(colors=LIGHT.muted, labelsize=9, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[0].set_ylabel("points added to the head", color=LIGHT.muted)
    panels[0].legend(frameon=False, fontsize=9, labelcolor=LIGHT.ink)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--adapters", nargs="+", default=list(ADAPTERS), choices=list(ADAPTERS))
    parser.add_argument("--steps", type=int, default=100, help="of session 0, in whole epochs, at least one")
    parser.add_argument("--images", type=int, default=20, help="training images of a class in the folder")
    parser.add_argument("--collections", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--sizes", type=int, nargs="+", help="of session 0, these alone")
    parser.add_argument("--finished", action="store_true", help="train nothing; show what is finished")
    options = parser.parse_args()
    quiet_libraries()
    found = gains(options)
    text = table(found, options.adapters)
    print(text)
    (options.output_dir / "map.md").write_text(text + "\n")
    FigureCanvasAgg(drawn := figure(found, options.adapters)).print_png(str(options.output_dir / "when-training-pays.png"))
    del drawn


if __name__ == "__main__":
    main()
