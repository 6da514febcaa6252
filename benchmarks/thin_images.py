"""The first images of each class, as a folder of parquet files: a table in minutes instead of hours.

    python benchmarks/thin_images.py ./cifar100_small ./cifar100_20_8 --train 20 --test 8

For folders of parquet files with the columns of `uoft-cs/cifar100` and files that are called after their split. `--coded 1` calls the
classes by part numbers, `--coded 0.5` every second one: what a text tower makes of names that say nothing.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def thin(files: list[Path], count: int, label_column: str, classes: int | None = None, rare: int | None = None) -> pa.Table:
    """At most `count` rows of each label, or of each of the first `classes` labels, in the order of the files; `rare` of the odd labels."""
    table = pa.concat_tables([pq.read_table(file) for file in files])
    taken: dict[int, int] = {}
    keep: list[int] = []
    for row, label in enumerate(table[label_column].to_pylist()):
        taken[label] = taken.get(label, 0) + 1
        most = count if rare is None or label % 2 == 0 else rare
        keep += [row] if taken[label] <= most and (classes is None or label < classes) else []
    return table.take(keep)


def coded(table: pa.Table, label_column: str, share: float) -> pa.Table:
    """With this share of the labels, evenly spread, called `sku 1037`, `sku 1074`, ...; `datasets` keeps names in the schema."""
    metadata = dict(table.schema.metadata)
    features = json.loads(metadata[b"huggingface"])
    label = features["info"]["features"][label_column]
    label["names"] = [f"sku {1037 + 37 * i}" if int((i + 1) * share) > int(i * share) else name for i, name in enumerate(label["names"])]
    return table.replace_schema_metadata(metadata | {b"huggingface": json.dumps(features).encode()})


def with_wrong_labels(table: pa.Table, share: float, label_column: str, seed: int = 0) -> pa.Table:
    """A share of the rows under another of the labels that are there, each as likely."""
    rng, at = np.random.default_rng(seed), table.column_names.index(label_column)
    labels = np.array(table[label_column].to_pylist())
    known = np.unique(labels)
    wrong = rng.random(len(labels)) < share
    places = np.searchsorted(known, labels) + rng.integers(1, len(known), len(labels))
    labels = np.where(wrong, known[places % len(known)], labels)
    return table.set_column(at, table.schema.field(at), pa.array(labels.tolist(), table.schema.field(at).type))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--train", type=int, required=True, help="training images per class")
    parser.add_argument("--test", type=int, required=True, help="test images per class")
    parser.add_argument("--classes", type=int, help="of the first so many labels alone")
    parser.add_argument("--rare", type=int, help="training images of every second class: a long tail")
    parser.add_argument("--coded", type=float, default=0.0, metavar="SHARE", help="share of the classes that are called by part numbers")
    parser.add_argument("--wrong_labels", type=float, default=0.0, help="share of the training images under another class")
    parser.add_argument("--label_column", default="fine_label")
    options = parser.parse_args()
    options.output.mkdir(parents=True)
    for split, count in (("train", options.train), ("test", options.test)):
        files = sorted(options.dataset.glob(f"*{split}*.parquet"))
        if not files:
            parser.error(f"{options.dataset} has no parquet file of the split {split!r}")
        table = thin(files, count, options.label_column, options.classes, options.rare if split == "train" else None)
        if split == "train":
            table = with_wrong_labels(table, options.wrong_labels, options.label_column)
        table = coded(table, options.label_column, options.coded) if options.coded else table
        pq.write_table(table, options.output / f"{split}.parquet")


if __name__ == "__main__":
    main()
