"""Prefix rows that a small decoder makes, beside free rows under weight decay: why ONE_PROMPT has no decoder (docs/contrib.md).

    python benchmarks/prompt_decoder.py --dataset ./cifar100_small
    python benchmarks/prompt_decoder.py --dataset digits

Three sessions of three classes with five images each, on the small ViT that ships with hf_cl: rows and a linear head under cross-entropy of
the session's classes, Adam, one step an epoch, in bfloat16. Per seed (class order, images, start): accuracy on training and on test images
of each session's classes when it ends, and over all classes in the end. `P[l, i] = W2 tanh(W1 (u_l + v_i) + b1) + b2`, a decoder each for
keys and values, rescaled once so that its rows begin with the mean and the variance of free ones, 0.5 and 1 / 12.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from hf_cl.adapters import OnePromptConfig
from hf_cl.methods import METHODS
from hf_cl.run import parse_settings, quiet_libraries
from hf_cl.run.open import open_base, open_scenario

SHOTS, TESTS, STEPS, HEAD_RATE = 5, 30, 15, 0.02
ARMS: dict[str, tuple[float, float]] = {
    "free rows": (0.02, 0.0),
    "free rows, rate 0.1": (0.1, 0.0),
    "free rows, rate 0.1, weight decay 1": (0.1, 1.0),
    "free rows, rate 0.02, weight decay 5": (0.02, 5.0),
    "decoder": (0.02, 0.0),
    "decoder, a code per row": (0.02, 0.0),
}
"""Arm -> learning rate and weight decay of what makes the rows."""


class Decoder(nn.Module):
    """Rows [L, P, D] from a code per layer and one per position, or from one code per row."""

    def __init__(self, layers: int, rows: int, out: int, *, width: int = 64, code: int = 32, shared: bool = True) -> None:
        super().__init__()
        self.layer_code = nn.Parameter(torch.randn(layers, code) * (1.0 if shared else 0.0), requires_grad=shared)
        self.token_code = nn.Parameter(torch.randn(*([rows] if shared else [layers, rows]), code))
        self.first, self.second = nn.Linear(code, width), nn.Linear(width, out)
        with torch.no_grad():
            made = self() - self.second.bias
            scale = (1 / 12) ** 0.5 / made.std()
            self.second.weight *= scale
            self.second.bias.fill_(0.5).sub_((made * scale).mean())

    def forward(self) -> Tensor:
        return self.second(torch.tanh(self.first(self.layer_code[:, None] + self.token_code)))


class Rows:
    """Where the rows of ONE_PROMPT's layers come from."""

    def __init__(self, model: nn.Module, arm: str) -> None:
        names = [name for name, _ in model.named_parameters() if "one_prompt_" in name]
        self.kinds = {kind: [name for name in names if f"one_prompt_{kind}" in name] for kind in "kv"}
        free = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters() if name in names}
        self.free, self.decoders = free, nn.ModuleDict()
        if arm.startswith("decoder"):
            most, out = max(len(rows) for rows in free.values()), next(iter(free.values())).shape[1]
            for kind, own in self.kinds.items():
                self.decoders[kind] = Decoder(len(own), most, out, shared=arm == "decoder")
        self.parameters: Sequence[Any] = [p for p in self.decoders.parameters() if p.requires_grad] or list(free.values())

    def __call__(self) -> Mapping[str, Tensor]:
        """Name -> [P, D]; shorter layers have the first positions."""
        if not self.decoders:
            return self.free
        made = {kind: decoder() for kind, decoder in self.decoders.items()}  # [L, P, D]
        return {name: made[kind][layer, : len(self.free[name])] for kind, names in self.kinds.items() for layer, name in enumerate(names)}


def images_of(sessions: Sequence[Any], processor: Any, seed: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pixels and labels of each session's shots and tests."""
    found = []
    for session in sessions:
        parts: list[Tensor] = []
        for data, most in ((session.train, SHOTS), (session.tests[-1].data, TESTS)):
            labels = torch.as_tensor(list(data.labels))
            draw = torch.Generator().manual_seed(seed)
            places = torch.cat([(p := (labels == c).nonzero()[:, 0])[torch.randperm(len(p), generator=draw)[:most]] for c in session.own])
            pixels = processor(images=[data[int(place)]["image"] for place in places], return_tensors="pt")["pixel_values"]
            parts += [pixels, labels[places]]
        found.append(tuple(parts))
    return found


def one_run(base: nn.Module, sessions: Sequence[Any], images: Sequence[Any], arm: str, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    names = list(sessions[-1].class_names)
    model: Any = get_peft_model(base, OnePromptConfig(head={"type": "linear"}, class_names=names))  # pyright: ignore[reportArgumentType]
    wrapper = model.base_model.head_wrapper()
    rows, weight = Rows(model, arm), torch.zeros(len(names), base.config.hidden_size, requires_grad=True)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    features: list[Tensor] = []
    handle = wrapper.register_forward_pre_hook(lambda module, given: features.append(given[0]))

    def logits(pixels: Tensor) -> Tensor:
        features.clear()
        with torch.autocast("cpu", torch.bfloat16):
            functional_call(model, dict(rows()), kwargs={"pixel_values": pixels})
        return features[0].float() @ weight.T  # [B, C]

    gaps, losses = [], []
    for session, (pixels, labels, test_pixels, test_labels) in zip(sessions, images, strict=True):
        first, stop = session.own.start, session.own.stop
        rate, decay = ARMS[arm]
        groups = [{"params": rows.parameters, "lr": rate, "weight_decay": decay}, {"params": [weight], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=HEAD_RATE)
        for _ in range(STEPS):
            loss = F.cross_entropy(logits(pixels)[:, first:stop], labels - first)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = [
                float((logits(p)[:, first:stop].argmax(1) + first == t).double().mean())
                for p, t in ((pixels, labels), (test_pixels, test_labels))
            ]
        gaps.append(right[0] - right[1])
        losses.append(float(loss.detach()))  # pyright: ignore[reportPossiblyUnboundVariable]
    with torch.no_grad():
        final = torch.cat([logits(pixels).argmax(1) == labels for *_, pixels, labels in images])
    handle.remove()
    model.unload()
    return {"final": float(final.double().mean()), "train less test": statistics.mean(gaps), "training loss": statistics.mean(losses)}


@torch.no_grad()
def class_means(base: Any, images: Sequence[Any]) -> float:
    """Final accuracy of the shots' means under cosine."""
    features = [F.normalize(base.base_model(pixels).last_hidden_state[:, 0], dim=1) for part in images for pixels in part[::2]]
    shots, labels = torch.cat(features[::2]), torch.cat([part[1] for part in images])
    means = F.normalize(torch.stack([shots[labels == label].mean(0) for label in labels.unique()]), dim=1)
    return float(((torch.cat(features[1::2]) @ means.T).argmax(1) == torch.cat([part[3] for part in images])).double().mean())


def spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder with the columns of uoft-cs/cifar100, or digits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    columns = {} if options.dataset == "digits" else {"image_column": "img", "label_column": "fine_label"}
    found: dict[str, list[dict[str, float]]] = {}
    means: list[float] = []
    for seed in options.seeds:
        values = {"dataset": options.dataset, **columns, "backbone": "demo", "num_base_classes": 3, "classes_per_session": 3}
        values |= {"class_order": "seed", "class_order_seed": seed}
        settings = parse_settings(METHODS["frozen"], "frozen", [f"--{key}={json.dumps(value)}" for key, value in values.items()])
        backbone, processor, _ = open_base(settings, settings.method())
        sessions = [session for session, _ in zip(open_scenario(settings), range(3), strict=False)]
        images = images_of(sessions, processor, seed)
        means.append(class_means(backbone, images))
        print(f"seed {seed}, class means, nothing trained: {means[-1]:.3f}", flush=True)
        for arm in options.arms:
            found.setdefault(arm, []).append(one_run(backbone, sessions, images, arm, seed))
            print(f"seed {seed}, {arm}: " + ", ".join(f"{name} {value:.3f}" for name, value in found[arm][-1].items()), flush=True)
    print(f"| class means, nothing trained | {spread(means)} | | |")
    for arm, runs in found.items():
        cells = [spread(v) for v in zip(*(run.values() for run in runs), strict=True)]
        print(f"| {arm} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
