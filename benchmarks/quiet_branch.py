"""Whether the branch that `mamba_fscil` adds for new classes is quiet on pictures of session 0, as it is trained to be on their mean maps.

    python benchmarks/quiet_branch.py runs/tokens-few/row-5-mamba_fscil/seed-0 --dataset ./cifar100_thin

Of the run's last adapter: for mean maps of session 0's classes, the pictures that they are means of, and test pictures of these classes,
how many are classified right, how many are taken for a class of a later session, and how long the two summands of a projected map are.
For folders of parquet files with the columns of `uoft-cs/cifar100`; the backbone is the run's, which nothing has trained.
model_cards/frames_and_patches.md has the outcome.
"""

from __future__ import annotations

import argparse
import json
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

import hf_cl
from hf_cl.hub.classifier import Classifier


def maps_of(classifier: Classifier, files: list[Path], base: int) -> tuple[Tensor, Tensor]:
    """[n, g, g, D] and labels [n]: every picture of the first `base` classes."""
    table = pa.concat_tables([pq.read_table(file) for file in files])
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["fine_label"]["names"]
    labels = torch.tensor([classifier.class_names.index(names[label]) for label in table["fine_label"].to_pylist()])
    rows = (labels < base).nonzero().flatten()
    pictures = [Image.open(BytesIO(value["bytes"])).convert("RGB") for value in table["img"].take(rows.tolist()).to_pylist()]
    found = []
    for start in range(0, len(pictures), 256):
        pixels = classifier.processor(images=pictures[start : start + 256], return_tensors="pt")["pixel_values"]
        found.append(classifier.classifier.outputs(pixels.to(classifier.device)).features)
    return torch.cat(found), labels[rows].to(classifier.device)


def line(classifier: Classifier, name: str, maps: Tensor, labels: Tensor, base: int) -> str:
    """One row of the table."""
    head = classifier.classifier.head
    said = head(maps).argmax(1)
    projector = head.projector
    new = projector.new(maps, chunked=False)[0]
    rest = projector(maps) - new
    shares = [100 * float(kind.double().mean()) for kind in (said == labels, said >= base)]
    return f"| {name} | {shares[0]:.1f} | {shares[1]:.1f} | {new.norm(dim=1).mean():.1f} | {rest.norm(dim=1).mean():.1f} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dataset", type=Path, required=True)
    options = parser.parse_args()
    classifier = hf_cl.load(options.run)
    base = classifier.model.peft_config["default"].classes_per_session[0]
    train, test = (maps_of(classifier, sorted(options.dataset.glob(f"{split}*.parquet")), base) for split in ("train", "test"))
    means = torch.stack([train[0][train[1] == label].mean(0) for label in range(base)])
    print("| of session 0's classes | right | taken for a later class | new branch | the rest |")
    print("|---|---|---|---|---|")
    print(line(classifier, "mean maps", means, torch.arange(base, device=means.device), base))
    print(line(classifier, "training pictures", *train, base))
    print(line(classifier, "test pictures", *test, base))


if __name__ == "__main__":
    main()
