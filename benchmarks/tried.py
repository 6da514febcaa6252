"""The numbers of docs/contrib.md: what was tried on features that stand still, beside heads that train nothing.

    python benchmarks/tried.py noise --dataset ./cifar100_small --output_dir runs/tried
    python benchmarks/tried.py outliers --dataset ./cifar100_small --output_dir runs/tried
    python benchmarks/tried.py outliers --dataset digits --output_dir runs/tried-digits
    python benchmarks/tried.py relevance --dataset ./cifar100_small --output_dir runs/tried

`noise`: cross-entropy under noise in a window. `outliers`: OVOR's hinges on draws and on ends of a potential flow. Both train a linear head
session by session, ten classes a session (of digits two), over `--seeds` class orders. `relevance`: which 20 of 80 classes to train on for
20 others with five images each. For folders of parquet files with the columns of `uoft-cs/cifar100`, and for `digits`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from heads_on_features import StandIn, features_of, measure
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Context, FeatureSet, LossTerm, Outputs, Phase, Session, Trainer, is_head
from hf_cl.contrib.noise_windows import NoisyCrossEntropy
from hf_cl.contrib.relevance import relevance
from hf_cl.heads import build_head
from hf_cl.losses import MaskedCrossEntropy, VirtualOutliers
from hf_cl.methods import METHODS
from hf_cl.run import parse_settings, quiet_libraries

EPOCHS, RATE, BATCH = 40, 0.01, 64
SHOTS, SOURCES, CHOSEN = 5, 80, 20


class FlowOutliers(VirtualOutliers):
    """Outliers at the end of a potential flow instead of draws.

    z_{t+1} = z_t - s grad u / |grad u|, u the logsumexp of the session's logits, from real features on, in 20 steps over `length` times
    sqrt(D) times the features' deviation. After Song, Keller, Sebe, Welling: "Latent Traversals in Generative Models as Potential Flows"
    (ICML 2023): of it the potential is taken. Its wave equation and its K learned potentials serve a generator, and there is none here.
    """

    def __init__(self, length: float = 1.0, steps: int = 20, **settings: Any) -> None:
        super().__init__(**settings)
        self.length, self.steps = length, steps

    def synthesize(self, features: Tensor, trainer: Trainer) -> Tensor:
        own, head = trainer.session.own, trainer.head
        rows = torch.randint(len(features), (self.per_class * len(own),), generator=trainer.generator)
        z, size = features[rows], self.length * features.shape[1] ** 0.5 * features.std(0).square().mean().sqrt() / self.steps
        for _ in range(self.steps):
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(head(z)[:, own.start : own.stop].logsumexp(1).sum(), z)
            z = z - size * F.normalize(slope, dim=1)
        return z.detach()


# Streams
Losses = Sequence[LossTerm]


def settings_for(options: argparse.Namespace, seed: int) -> Any:
    """Of a run that gives the features of the small ViT that ships with hf_cl."""
    size = 2 if options.dataset == "digits" else 10
    columns = {} if options.dataset == "digits" else {"image_column": "img", "label_column": "fine_label"}
    values = {
        "dataset": options.dataset,
        **columns,
        "backbone": "demo",
        "num_base_classes": size,
        "classes_per_session": size,
        "class_order": "seed",
        "class_order_seed": seed,
        "seed": seed,
        "batch_size": BATCH,
        "augmentation": "none",
        "head": {"type": "prototype"},
        "keep_adapters": "last",
        "feature_cache": str(options.output_dir / "features"),
        "output_dir": str(options.output_dir / f"{options.what}-{seed}"),
    }
    return parse_settings(METHODS["frozen"], "frozen", [f"--{key}={json.dumps(value)}" for key, value in values.items()])


class OnFeatures(StandIn):
    """What the losses here ask of a trainer, with features that are there."""

    session: Session
    phase = Phase("on features", 1, [], is_head, inputs="features")
    accelerator = SimpleNamespace(device=torch.device("cpu"))

    def features_of(self, dataset: Any, **options: Any) -> FeatureSet:
        return super().features_of(dataset)


def taught(sessions: Sequence[tuple[Session, FeatureSet, FeatureSet]], phases: Sequence[tuple[int, Losses]], seed: int) -> float:
    """Final accuracy of a linear head after phases of (epochs, losses) in each session: Adam, a cosine over the session's epochs."""
    head: Any = build_head({"type": "linear"}, sessions[0][1].features.shape[1], 0)
    torch.manual_seed(seed)
    trainer: Any = OnFeatures(head, seed, {id(session.train): train for session, train, _ in sessions})
    trainer.generator, step = torch.Generator().manual_seed(seed), 0
    total, losses = sum(epochs for epochs, _ in phases), {id(loss): loss for _, some in phases for loss in some}.values()
    for session, train, _ in sessions:
        head.grow(session.new_class_names)
        trainer.session = replace(session, batch_size=BATCH)
        optimizer = torch.optim.Adam(head.parameters(), lr=RATE)
        for loss in losses:
            loss.begin_session(trainer, trainer.session)
        past = 0
        for epochs, terms in phases:
            for epoch in range(epochs):
                optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * (past + epoch) / total)) / 2
                for loss in terms:
                    loss.begin_epoch(trainer, epoch)
                for rows in torch.randperm(len(train.labels), generator=trainer.generator).split(BATCH):
                    features = train.features[rows]
                    batch = {"labels": train.labels[rows], "index": train.index[rows]}
                    outputs = Outputs(features, head(features), features)
                    context = Context(batch, (outputs,), trainer.session, epoch, step, frozen=lambda role, view=-1: outputs)  # noqa: B023
                    optimizer.zero_grad()
                    torch.stack([loss.weight_at(epoch) * loss(context) for loss in terms]).sum().backward()
                    optimizer.step()
                    step += 1
                    for loss in terms:
                        loss.after_step(trainer)
            past += epochs
    tests = [test for _, _, test in sessions]
    with torch.no_grad():
        right = [head(test.features).argmax(1) == test.labels for test in tests]
    return float(torch.cat(right).double().mean())


def noise_arms() -> Mapping[str, Sequence[tuple[int, Losses]]]:
    windows = {
        "dropout .1": {},
        "dropout .1, second half": {"start": 0.5},
        "dropout .5, second half": {"start": 0.5, "rate": 0.5},
        "Beta noise": {"kind": "beta"},
        "Beta noise, first half": {"kind": "beta", "stop": 0.5},
    }
    noisy = {name: NoisyCrossEntropy(epochs=EPOCHS, classes="new", **window) for name, window in windows.items()}
    return {name: [(EPOCHS, [loss])] for name, loss in {"no noise": MaskedCrossEntropy("new"), **noisy}.items()}


def outlier_arms() -> Mapping[str, Sequence[tuple[int, Losses]]]:
    plain = MaskedCrossEntropy("new")
    kinds = {
        "draws, deviation 1": VirtualOutliers(num_offsets=150, std=1.0),
        "draws, deviation 0.1 (OVOR)": VirtualOutliers(num_offsets=150),
        "flow, length 1": FlowOutliers(),
        "flow, length 0.3": FlowOutliers(0.3),
    }
    ends = {"no outliers": [plain], **{name: [plain, outliers] for name, outliers in kinds.items()}}
    return {name: [(EPOCHS // 2, [plain]), (EPOCHS // 4, losses)] for name, losses in ends.items()}


def streams(options: argparse.Namespace, arms: Mapping[str, Sequence[tuple[int, Losses]]]) -> None:
    found: dict[str, list[float]] = {}
    for seed in options.seeds:
        settings = settings_for(options, seed)
        sessions = features_of(settings)
        for name, kind in (("nearest class mean", "prototype"), ("Gaussian head", "gaussian")):
            found.setdefault(name, []).append(100 * measure({"type": kind}, sessions, settings)["final_accuracy"])
        for name, phases in arms.items():
            started = time.process_time()
            found.setdefault(name, []).append(100 * taught(sessions, phases, seed))
            print(f"seed {seed}, {name}: {found[name][-1]:.2f}, {time.process_time() - started:.0f} s of processor", flush=True)
    show(found)


def show(found: Mapping[str, Sequence[float]]) -> None:
    for name, values in found.items():
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        print(f"| {name} | {statistics.mean(values):.2f}{spread} | {', '.join(f'{value:.1f}' for value in values)} |")


# Relevance
def adapted(features: Tensor, labels: Tensor, generator: torch.Generator, epochs: int = 30) -> Callable[[Tensor], Tensor]:
    """A residual network of width 128 before the head, trained with a linear head on features [n, D] that stand still."""
    width, classes = features.shape[1], labels.unique(return_inverse=True)[1]
    torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
    inner, head = nn.Sequential(nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)), nn.Linear(width, int(classes.max()) + 1)
    nn.init.zeros_(inner[2].weight)  # pyright: ignore[reportArgumentType]
    nn.init.zeros_(inner[2].bias)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam([*inner.parameters(), *head.parameters()], lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(features), generator=generator).split(64):
            loss = F.cross_entropy(head(features[rows] + inner(features[rows])), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return lambda some: (some + inner(some)).detach()


def nearest_mean(shots: Tensor, tests: Tensor) -> float:
    """Accuracy of class means under cosine: shots [q, k, D], tests [q, n, D]."""
    means = F.normalize(F.normalize(shots, dim=2).mean(1), dim=1)  # [q, D]
    return float(((tests @ means.T).argmax(2) == torch.arange(len(tests))[:, None]).double().mean())


def choices(sources: Tensor, targets: Tensor, generator: torch.Generator) -> Mapping[str, Tensor]:
    """Rule -> positions of the sources it takes, from class means [T, D] and [q, D]."""
    middle = sources.mean(0)
    cosine = F.normalize(sources - middle, dim=1) @ F.normalize(targets - middle, dim=1).T  # [T, q]
    return {
        "lasso": relevance(sources.T, targets.T).importance.argsort(descending=True, stable=True)[:CHOSEN],
        "largest cosine": cosine.amax(1).argsort(descending=True, stable=True)[:CHOSEN],
        "at random": torch.randperm(len(sources), generator=generator)[:CHOSEN],
        "all 80": torch.arange(len(sources)),
    }


def confusions(sources: Tensor, targets: Tensor, shots: Tensor, tests: Tensor, generator: torch.Generator) -> Mapping[str, float]:
    """Of a new class's test images [q, n, D] that go to a source class, the share that goes to the five that a rule names beforehand."""
    means = F.normalize(torch.cat([sources, shots.mean(1)]), dim=1)
    taken = (tests @ means.T).argmax(2)  # [q, n]
    middle = sources.mean(0)
    rules = {
        "lasso": relevance(sources.T, targets.T).coefficients.T,  # [q, T]
        "cosine": F.normalize(targets - middle, dim=1) @ F.normalize(sources - middle, dim=1).T,
        "at random": torch.rand(len(targets), len(sources), generator=generator),
    }
    wrong = taken < len(sources)
    named = {name: scores.topk(5, dim=1).indices for name, scores in rules.items()}
    return {name: float(((taken[:, :, None] == five[:, None]).any(2) & wrong).sum() / wrong.sum()) for name, five in named.items()}


def sources(options: argparse.Namespace) -> None:
    """Which sources to train on, and which of them a new class will be confused with."""
    sessions = features_of(settings_for(options, 0))
    parts = [[(part.features, part.labels) for part in pair] for _, *pair in sessions]
    train, test = (
        torch.stack([rows[labels == label] for pair in parts for rows, labels in [pair[which]] for label in labels.unique()])
        for which in (0, 1)
    )  # [100, n, D] each
    found: dict[str, list[float]] = {}
    for seed in options.seeds:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(train), generator=generator)
        known, new = order[:SOURCES], order[SOURCES:]
        shots = train[new][:, torch.randperm(train.shape[1], generator=generator)[:SHOTS]]  # [20, 5, D]
        means, targets = train[known].mean(1), shots.mean(1)
        values = {"nothing trained": nearest_mean(shots, F.normalize(test[new], dim=2))}
        for name, places in choices(means, targets, generator).items():
            rows = train[known[places]]  # [chosen, n, D]
            labels = torch.arange(len(rows)).repeat_interleave(rows.shape[1])
            adapter = adapted(rows.flatten(0, 1), labels, generator)
            values[name] = nearest_mean(adapter(shots), F.normalize(adapter(test[new]), dim=2))
        for name, value in confusions(means, targets, shots, F.normalize(test[new], dim=2), generator).items():
            values[f"confusions named by {name}"] = value
        for name, value in values.items():
            found.setdefault(name, []).append(100 * value)
        print(f"seed {seed}: " + ", ".join(f"{name} {100 * value:.1f}" for name, value in values.items()), flush=True)
    show(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["noise", "outliers", "relevance"])
    parser.add_argument("--dataset", required=True, help="a folder with the columns of uoft-cs/cifar100, or digits")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    if options.what == "relevance":
        sources(options)
    else:
        streams(options, noise_arms() if options.what == "noise" else outlier_arms())


if __name__ == "__main__":
    main()
