"""What PELA's stage brings, and what training norms and embeddings beside the factors, as the authors do, would bring.

    python benchmarks/thin_images.py ./cifar100_small ./cifar100_10_10 --train 10 --test 10
    python benchmarks/low_rank_stage.py ./cifar100_10_10 --ratio 3 --trained nothing factors everything --output_dir runs/stage

The small ViT that ships with hf_cl is compressed and trained by distillation alone, without labels, on the training pictures: the mean
squared distance of what embedding and blocks give to what the original's give. A line of JSON per row: the cosine of the class token to the
original's on test pictures, and the accuracy of a Gaussian head over all classes. `everything` trains the whole student in a loop of its
own, since the adapter LOW_RANK has factors and biases alone.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from compare_methods import settings_of
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters.low_rank_linear import LowRankLinear
from hf_cl.adapters.vision_blocks import stages
from hf_cl.backbones import load_backbone, load_processor
from hf_cl.backbones.low_rank import compress, save_low_rank
from hf_cl.pictures import to_rgb
from hf_cl.run import quiet_libraries, train

BATCH, DECAY = 64, 0.05


def pixels(file: Path, processor: Any) -> Tensor:
    """[n, 3, S, S] of a parquet file with a column of images."""
    pictures = [to_rgb(Image.open(BytesIO(row["bytes"]))) for row in pq.read_table(file)["img"].to_pylist()]
    parts = [processor(images=pictures[i : i + 256], return_tensors="pt")["pixel_values"] for i in range(0, len(pictures), 256)]
    return torch.cat(parts)


def outputs(model: Any, images: Tensor) -> list[Tensor]:
    """What embedding and blocks give."""
    found: list[Tensor] = []
    hooks = [model.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output)) for name in stages(model)]
    try:
        model.vit(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def trained_parameters(student: Any, which: str) -> list[torch.nn.Parameter]:
    """Of the factors and biases, or of all but what no picture reaches; everything else is frozen."""
    pairs = [module for module in student.modules() if isinstance(module, LowRankLinear)]
    chosen = {id(p) for pair in pairs for p in pair.parameters()} if which == "factors" else {id(p) for p in student.parameters()}
    named = [(name, p) for name, p in student.named_parameters() if id(p) in chosen and not name.endswith("mask_token")]
    student.requires_grad_(False)
    return [p.requires_grad_() for _, p in named]


def distil(student: Any, teacher: Any, images: Tensor, which: str, epochs: int, rate: float) -> None:
    parameters, generator = trained_parameters(student, which), torch.Generator().manual_seed(0)
    optimizer, total, step = torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY), epochs * math.ceil(len(images) / BATCH), 0
    for _ in range(epochs):
        for index in torch.randperm(len(images), generator=generator).split(BATCH):
            mirrored = torch.rand(len(index), generator=generator) < 0.5
            batch = torch.where(mirrored[:, None, None, None], images[index].flip(-1), images[index])
            with torch.no_grad():
                theirs = outputs(teacher, batch)
            errors = [F.mse_loss(a, b) for a, b in zip(outputs(student, batch), theirs, strict=True)]
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * step / total)) / 2
            optimizer.zero_grad()
            torch.stack(errors).mean().backward()
            optimizer.step()
            step += 1


@torch.no_grad()
def cosine(student: Any, teacher: Any, images: Tensor) -> float:
    """Mean over pictures, of the class token behind the last norm."""
    parts = [F.cosine_similarity(*(m.vit(x).last_hidden_state[:, 0] for m in (student, teacher))) for x in images.split(250)]
    return float(torch.cat(parts).mean())


def accuracy(backbone: str, dataset: Path, folder: Path, classes: int) -> float:
    """Of a Gaussian head over all classes, after one session."""
    common = {"backbone": backbone, "image_column": "img", "label_column": "fine_label", "skip_bad_images": True}
    sizes = {"num_base_classes": classes, "classes_per_session": classes}
    settings = settings_of({"method": "frozen"}, common | sizes, dataset=str(dataset), output_dir=str(folder))
    return float(train(settings, quiet=True).finish().metrics["final_accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--ratio", type=float, default=3.0)
    parser.add_argument("--trained", nargs="+", choices=("whole", "nothing", "factors", "everything"), default=["nothing", "factors"])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    quiet_libraries()
    processor, teacher = load_processor("demo"), load_backbone("demo").eval()
    images, tests = (pixels(options.dataset / f"{part}.parquet", processor) for part in ("train", "test"))
    for which in options.trained:
        started, name, near = time.process_time(), "demo", 1.0
        place = options.output_dir / f"{which}-{options.ratio:g}"
        if which != "whole":
            student = compress(teacher, options.ratio)
            if which != "nothing":
                distil(student, teacher, images, which, options.epochs, options.rate)
            save_low_rank(student, place / "base")
            processor.save_pretrained(place / "base")
            name, near = str(place / "base"), cosine(student.eval(), teacher, tests)
        right = accuracy(name, options.dataset, place / "run", options.classes)
        row = {"ratio": options.ratio, "trained": which, "cosine": near, "accuracy": right, "seconds": time.process_time() - started}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
