"""Accuracy of methods whose head is the text tower, on a small CLIP: zero-shot, prompts of three kinds, LoRA, GLAD.

    python benchmarks/clip_table.py base_to_novel --backbone ./clip_tiny_demo --dataset ./cifar100_small
    python benchmarks/clip_table.py few_shot_class_incremental --backbone ./clip_tiny_demo --dataset ./cifar100_small --per_class 20 10

Every row is `hf-cl train METHOD ...` once per seed; the commands are printed. A run that is finished in --output_dir is read and not
made again. The table is Markdown: percent, mean and standard deviation (n - 1) over the seeds.
"""

from __future__ import annotations

import argparse
import math
import shlex
import statistics
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hf_cl.methods import METHODS
from hf_cl.run import nearest, parse_settings, quiet_libraries, train
from hf_cl.training.results import Results

BATCH = 32
PHOTO = "--head={type: text, template: 'a photo of a {}.', logit_scale: model}"
BARE = "--head={type: text, template: '{}.', logit_scale: model}"
PROMPTS = ["--learning_rate=0.05", "--session_epochs=4", "--session_batch_size=25"]
LORA = [PHOTO, "--learning_rate=0.004", "--session_iterations=4"]

ROWS: dict[str, tuple[str, list[str]]] = {
    "zero-shot": ("lora", [PHOTO, "--epochs=0"]),
    "CPE-CLIP": ("cpe_clip", [PHOTO, *PROMPTS]),
    "CoOp-like": (
        "cpe_clip",
        [
            *[BARE, *PROMPTS, "--towers=text", "--prompt_depth=1", "--num_prompt_tokens=4", "--init=words", "--init_text=a photo of a"],
            "--regularization=none",
        ],
    ),
    "MaPLe-like": (
        "cpe_clip",
        [PHOTO, *PROMPTS, "--prompt_depth=3", "--coupling=per_layer_linear", "--vision_mode=replace", "--regularization=none"],
    ),
    "LoRA": ("glad", [*LORA, "--rule=none"]),
    "GLAD": ("glad", LORA),
    "GLAD, radius 0.5": ("glad", [*LORA, "--rho=0.5"]),
}
"""Name -> method and its flags, beside those of the protocol."""

PROTOCOLS: dict[str, tuple[list[str], list[str]]] = {
    "base_to_novel": (["--shots=16"], ["base_accuracy_within", "novel_accuracy_within", "harmonic_accuracy_within"]),
    "few_shot_class_incremental": (
        ["--num_base_classes=60", "--classes_per_session=5", "--shots=5"],
        ["average_incremental_accuracy", "final_accuracy", "base_accuracy", "novel_accuracy", "harmonic_accuracy", "forgetting"],
    ),
}
"""Name -> its flags, and the metrics that are shown; of a list of metrics the last."""

LENGTH = {"lora": [], "cpe_clip": ["--base_epochs={epochs}"], "glad": ["--iterations={iterations}"]}
"""How long session 0 is. By --epochs every method sees as many images; GLAD passes each twice."""


def thin(dataset: Path, folder: Path, train_images: int, test_images: int) -> Path:
    """The first images of each class, as a folder of parquet files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train_images), ("test", test_images)):
        table = pa.concat_tables([pq.read_table(file) for file in sorted(dataset.glob(f"*{split}*.parquet"))])
        taken: dict[int, int] = {}
        keep: list[int] = []
        for row, label in enumerate(table["fine_label"].to_pylist()):
            taken[label] = taken.get(label, 0) + 1
            keep += [row] if taken[label] <= count else []
        pq.write_table(table.take(keep), folder / f"{split}.parquet")
    return folder


def one_run(row: str, seed: int, flags: list[str], length: dict[str, int], folder: Path) -> Results:
    method, own = ROWS[row]
    own = [*own, *(flag.format(**length) for flag in LENGTH[method])]
    every = [*flags, *own, f"--seed={seed}", f"--class_order_seed={seed}", f"--output_dir={folder}"]
    finished = folder / "finished"
    if not finished.exists():
        print("hf-cl train", method, shlex.join(every), flush=True)
        train(parse_settings(METHODS[method], method, every), quiet=True)
        finished.touch()
    return Results.load(folder / "results.json")


def value(results: Results, metric: str) -> float:
    found = results.metrics[metric]
    last = found[-1] if isinstance(found, list) else found
    assert isinstance(last, float)
    return 100 * last


def cell(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", choices=sorted(PROTOCOLS))
    parser.add_argument("--backbone", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True, help="a folder of parquet files with the columns of uoft-cs/cifar100")
    parser.add_argument("--per_class", type=int, nargs=2, metavar=("TRAIN", "TEST"), default=[60, 30], help="images taken of each class")
    parser.add_argument("--epochs", type=int, default=2, help="of session 0")
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/clip_table"))
    options = parser.parse_args()
    if unknown := [row for row in options.rows if row not in ROWS]:
        parser.error(f"no row {unknown[0]!r}.{nearest(unknown[0], ROWS)} Rows: {', '.join(ROWS)}")

    quiet_libraries()
    own, metrics = PROTOCOLS[options.protocol]
    folder = options.output_dir / options.protocol
    dataset = thin(options.dataset, folder / "images", *options.per_class)
    flags = [f"--backbone={options.backbone}", f"--dataset={dataset}", "--image_column=img", "--label_column=fine_label"]
    flags += [f"--protocol={options.protocol}", *own, f"--batch_size={BATCH}", "--augmentation=none"]
    images = 50 * 16 if options.protocol == "base_to_novel" else 60 * options.per_class[0]
    length = {"epochs": options.epochs, "iterations": options.epochs * math.ceil(images / BATCH)}
    found: dict[str, list[Results]] = {row: [] for row in options.rows}
    for seed in options.seeds:  # seed by seed: a table that is cut short has all of its rows
        for row in options.rows:
            if row != "zero-shot" or not found[row]:  # nothing is drawn there
                found[row].append(one_run(row, seed, flags, length, folder / f"{row}-{seed}"))
    print(f"\n| method | {' | '.join(metrics)} | trained parameters |")
    print("|---" * (len(metrics) + 2) + "|")
    for row, runs in found.items():
        cells = [cell([value(results, metric) for results in runs]) for metric in metrics]
        trained = runs[0].parameters.trainable if any(session.trained for session in runs[0].sessions) else 0
        print(f"| {row} | {' | '.join(cells)} | {trained:,} |")


if __name__ == "__main__":
    main()
