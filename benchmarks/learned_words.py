"""What learned words are worth without any training beside them (docs/learned_words.md): two tables.

    python benchmarks/learned_words.py ./cifar100_small

The data set is a folder of parquet files with the columns of `uoft-cs/cifar100`. Under every draw ten of its classes are taken at random,
five training pictures of each, and its test pictures; the classes go by codes. The second table teaches twenty classes in sessions of ten,
five and five, with and without the mean images of earlier classes. All on the small CLIP that ships with hf_cl.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from peft import get_peft_model
from PIL import Image
from torch import Tensor

from hf_cl.adapters import GladConfig
from hf_cl.adapters.towers import encode_images
from hf_cl.backbones import ClipClassifier, load_processor, load_tokenizer, load_two_towers

BASE = "demo_clip"
CLASSES, SHOTS = 10, 5
SESSIONS = (10, 5, 5)
SESSION_SHOTS = (20, 5, 5)
JUDGES = tuple[Tensor, Tensor, Tensor, Tensor]


class Pictures:
    """Embeddings of the pictures of a label, at unit length; computed once."""

    def __init__(self, folder: Path) -> None:
        self.model, self.processor = load_two_towers(BASE).eval(), load_processor(BASE)
        tables = {split: pq.read_table(sorted(folder.glob(f"*{split}*.parquet"))) for split in ("train", "test")}
        features = json.loads(tables["train"].schema.metadata[b"huggingface"])["info"]["features"]
        self.names: list[str] = features["fine_label"]["names"]
        self.rows = {split: (table["img"], table["fine_label"].to_pylist()) for split, table in tables.items()}
        self.known: dict[tuple[str, int], Tensor] = {}

    @torch.no_grad()
    def of(self, split: str, label: int, count: int | None = None) -> Tensor:
        """[count, E] the first ones."""
        if (split, label) not in self.known:
            images, labels = self.rows[split]
            found = [Image.open(io.BytesIO(images[i].as_py()["bytes"])).convert("RGB") for i, own in enumerate(labels) if own == label]
            pixels = self.processor(images=found, return_tensors="pt")["pixel_values"]
            self.known[split, label] = F.normalize(encode_images(self.model, pixels), dim=-1)
        return self.known[split, label][:count]

    def all_of(self, split: str, labels: Sequence[int], count: int | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of these classes, and their positions among them."""
        parts = [self.of(split, label, count) for label in labels]
        return torch.cat(parts), torch.arange(len(labels)).repeat_interleave(torch.tensor([len(part) for part in parts]))


def head_of(names: Sequence[str], **spec: Any) -> Any:
    """A text head of these classes on the untouched base."""
    config = GladConfig(class_names=[*names], head={"type": "text", "template": "a photo of a {}.", **spec})
    model = get_peft_model(load_two_towers(BASE).eval(), config)
    return ClipClassifier(model.get_base_model(), config, load_tokenizer(BASE)).eval().head


@torch.no_grad()
def accuracy(rows: Tensor, images: Tensor, labels: Tensor) -> float:
    """Of the nearest row [C, E]."""
    return (images @ F.normalize(rows, dim=-1).T).argmax(1).eq(labels).double().mean().item()


def texts(head: Any) -> Tensor:
    """[C, E]"""
    with torch.no_grad():
        return head.text_features(range(head.num_classes))


def codes(count: int) -> list[str]:
    return [f"sku {1037 + 37 * i}" for i in range(count)]


def at_random(head: Any, generator: torch.Generator) -> Callable[[int, Tensor], Tensor]:
    """Words that begin at some word of the vocabulary instead of near the images."""
    embeddings = head.vocabulary.embeddings  # [V, D]

    def start(label: int, images: Tensor) -> Tensor:  # -> [W, D]
        return embeddings[torch.randint(len(embeddings), (head.spec.words_per_class,), generator=generator)]

    return start


def one_draw(pictures: Pictures, seed: int) -> dict[str, float]:
    """The first table's rows."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(len(pictures.names), generator=generator)[:CLASSES].tolist()
    images, own = pictures.all_of("train", labels, SHOTS)
    test = pictures.all_of("test", labels)
    shuffled = own[torch.randperm(len(own), generator=generator)]
    vocabulary = None

    def learned(given: Tensor = own, random: bool = False, **spec: Any) -> float:
        nonlocal vocabulary
        head = head_of(codes(CLASSES), learned_words="all", **spec)
        head._vocabulary = vocabulary  # the same for all
        vocabulary = head.vocabulary
        if random:
            head._start = at_random(head, generator)
        head.learn(images, given, range(CLASSES))
        return accuracy(texts(head), *test)

    return {
        'codes ("a photo of a sku 1037.")': accuracy(texts(head_of(codes(CLASSES))), *test),
        "their names": accuracy(texts(head_of([pictures.names[label] for label in labels])), *test),
        "the word where it begins, 0 steps": learned(words_steps=0),
        "the learned word": learned(),
        "a learned word that begins at any word": learned(random=True),
        "two learned words": learned(words_per_class=2),
        "class means of the image tower, no text": accuracy(torch.stack([images[own == c].mean(0) for c in range(CLASSES)]), *test),
        "a word that was learned under shuffled labels": learned(shuffled),
    }


def in_sessions(pictures: Pictures, seed: int) -> dict[str, tuple[float, float, float]]:
    """The second table's rows: accuracy at the end on all classes, on those of the first session, and on the later ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(len(pictures.names), generator=generator)[: sum(SESSIONS)].tolist()
    images, own = pictures.all_of("test", labels)

    def measured(rows: Tensor) -> tuple[float, float, float]:
        base = own < SESSIONS[0]
        return accuracy(rows, images, own), accuracy(rows, images[base], own[base]), accuracy(rows, images[~base], own[~base])

    found, means = {}, []
    for name in ("with mean images of earlier classes", "with their texts alone"):
        head, first, means = head_of(codes(len(labels)), learned_words="all"), 0, []
        if name == "with their texts alone":
            head._judged = without_means(head._judged)
        for size, shots in zip(SESSIONS, SESSION_SHOTS, strict=True):
            here, at = pictures.all_of("train", labels[first : first + size], shots)
            head.learn(here, at + first, range(first, first + size))
            means += [here[at == c].mean(0) for c in range(size)]
            first += size
        found[name] = measured(texts(head))
    return found | {"class means of the image tower, no text": measured(torch.stack(means))}


def without_means(judged: Callable[[Tensor, Tensor], JUDGES]) -> Callable[[Tensor, Tensor], JUDGES]:
    """Earlier classes take part by their texts, and nothing says which images are theirs."""

    def alone(images: Tensor, labels: Tensor) -> JUDGES:
        columns, rows, places, weights = judged(images, labels)
        return columns, rows[: len(labels)], places[: len(labels)], weights[: len(labels)]

    return alone


def spread(values: Sequence[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--orders", type=int, default=3)
    options = parser.parse_args()
    pictures = Pictures(options.dataset)
    draws = []
    for seed in range(options.draws):
        draws.append(one_draw(pictures, seed))
        print(seed, {name: round(100 * value, 1) for name, value in draws[-1].items()}, flush=True)
    for name in draws[0]:
        print(f"| {name} | {spread([draw[name] for draw in draws])} |", flush=True)
    orders = []
    for seed in range(options.orders):
        orders.append(in_sessions(pictures, seed))
        print(seed, {name: [round(100 * value, 1) for value in values] for name, values in orders[-1].items()}, flush=True)
    for name in orders[0]:
        print(f"| {name} | {' | '.join(spread([order[name][i] for order in orders]) for i in range(3))} |")


if __name__ == "__main__":
    main()
