"""Weight decay, ensembles and distillation on features of the small ViT: what scarce data with much computing time give.

    python benchmarks/ensembles.py --dataset ./cifar100_small --classes 20 --images 20 --unlabelled 40

A residual MLP as adapter and a linear head are trained on features of the first images of each class, several times with other seeds.
Printed for each decay: negative log-likelihood and accuracy on the test images of one member, of 2, 4 and 8 averaged, and of a student
distilled from the eight on the same images, and on these and unlabelled ones. Means over `--repeats`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl.backbones import load_backbone, load_processor
from hf_cl.hub.ensemble import average_of
from hf_cl.losses.ensemble_distillation import distillation, softened
from hf_cl.scenarios import ImageSet, open_images

MEMBERS, TEMPERATURE = 8, 2.0


class Adapted(nn.Module):
    """Features with a residual MLP, then a linear head: [B, D] -> [B, C]."""

    def __init__(self, width: int, classes: int, hidden: int = 256) -> None:
        super().__init__()
        self.up, self.down, self.head = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Linear(width, classes)
        nn.init.zeros_(self.down.weight)

    def forward(self, features: Tensor) -> Tensor:
        return self.head(features + self.down(F.relu(self.up(features))))


@torch.no_grad()
def features_of(images: ImageSet, model: nn.Module, processor: object) -> Tensor:
    """[n, D] of the untouched backbone, each feature of unit variance to come."""
    pixels = [processor(images=[images[i]["image"]], return_tensors="pt")["pixel_values"] for i in range(len(images))]  # pyright: ignore
    batches = torch.cat(pixels).split(64)
    return torch.cat([model(batch, output_hidden_states=True).hidden_states[-1][:, 0] for batch in batches])


def train(x: Tensor, targets: Tensor, classes: int, decay: float, seed: int, steps: int) -> Adapted:
    """Full batches of AdamW; `targets` are labels [n], or softened probabilities [n, C]."""
    torch.manual_seed(seed)
    model = Adapted(x.shape[1], classes)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    for _ in range(steps):
        logits = model(x)
        loss = F.cross_entropy(logits, targets) if targets.dim() == 1 else distillation(logits, targets, TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def said(models: Sequence[Adapted], x: Tensor) -> Tensor:
    """[K, B, C] log-probabilities."""
    return torch.stack([model(x).log_softmax(-1) for model in models])


def scores(log_probabilities: Tensor, labels: Tensor) -> tuple[float, float]:
    return F.nll_loss(log_probabilities, labels).item(), (log_probabilities.argmax(-1) == labels).double().mean().item()


def one_decay(decay: float, repeat: int, data: dict[str, Tensor], classes: int) -> dict[str, tuple[float, float]]:
    members = [train(data["x"], data["y"], classes, decay, 100 * repeat + seed, 400) for seed in range(MEMBERS)]
    each = said(members, data["test_x"])
    found = {"member": tuple(statistics.fmean(values) for values in zip(*(scores(one, data["test_y"]) for one in each), strict=True))}
    found |= {f"K = {k}": scores(average_of(each[:k]), data["test_y"]) for k in (2, 4, 8)}
    for name, x in (("student, same images", data["x"]), ("student, unlabelled too", torch.cat([data["x"], data["more_x"]]))):
        targets = softened(said(members, x), TEMPERATURE).mean(0)
        student = train(x, targets, classes, decay, 100 * repeat + 99, 800)
        found[name] = scores(said([student], data["test_x"])[0], data["test_y"])
    return found  # pyright: ignore[reportReturnType]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--label_column")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--images", type=int, default=20, help="labelled ones of each class")
    parser.add_argument("--unlabelled", type=int, default=40, help="of each class")
    parser.add_argument("--decays", type=float, nargs="+", default=[0.01, 0.1, 1, 3, 10])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    source = open_images(args.dataset, label_column=args.label_column)
    model, processor = load_backbone("demo").eval(), load_processor("demo")
    train_set, test = source.train.of_classes(range(args.classes)), source.test.of_classes(range(args.classes))
    first = torch.tensor([i for c in range(args.classes) for i in train_set.positions_of(c)[: args.images].tolist()])
    more = [i for c in range(args.classes) for i in train_set.positions_of(c)[args.images : args.images + args.unlabelled].tolist()]
    everything, test_x = features_of(train_set, model, processor), features_of(test, model, processor)
    mean, deviation = everything[first].mean(0), everything[first].std(0)
    everything, test_x = (everything - mean) / deviation, (test_x - mean) / deviation
    labels = torch.as_tensor(train_set.labels)
    data = {
        "x": everything[first],
        "y": labels[first],
        "more_x": everything[more],
        "test_x": test_x,
        "test_y": torch.as_tensor(test.labels),
    }
    for decay in args.decays:
        runs = [one_decay(decay, repeat, data, args.classes) for repeat in range(args.repeats)]
        cells = []
        for name in runs[0]:
            nll, accuracy = (statistics.fmean(run[name][i] for run in runs) for i in (0, 1))
            cells.append(f"{name} {nll:.2f} / {100 * accuracy:.1f}")
        closed = [[(run["member"][0] - run[name][0]) / (run["member"][0] - run["K = 8"][0]) for run in runs] for name in list(runs[0])[-2:]]
        shares = "; ".join(", ".join(f"{share:.2f}" for share in each) for each in closed)
        print(f"decay {decay:g}: {', '.join(cells)}; share of the gap in NLL that students close: {shares}", flush=True)


if __name__ == "__main__":
    main()
