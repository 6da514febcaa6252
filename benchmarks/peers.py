"""Training steps of the prompt pools beside those of two toolboxes, by their own networks.

    git clone https://github.com/sun-hailong/LAMDA-PILOT     # commit 2647455; needs timm 0.6.13 in front of hf_cl's:
    pip install --no-deps --target ./timm06 timm==0.6.13
    PYTHONPATH=.:./timm06 python -m benchmarks.peers --pilot ./LAMDA-PILOT
    git clone https://github.com/aimagelab/mammoth           # commit e75a491
    python -m benchmarks.peers --mammoth ./mammoth

Random weights, ViT-Ti/16, the same images on both sides. Their networks are built in that width by their own classes; a step is what their
training loops do with a batch: forward, cross-entropy of the session's classes, backward, Adam, and the loss read. No weights are loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import ours
from benchmarks.measure import Call, Options, Row, paired
from hf_cl.methods import CodaPromptSettings, L2PSettings

SIZE, WIDTH, HEADS = "tiny", *ours.WIDTHS["tiny"]
SESSIONS, COMPONENTS, ROWS = 2, 20, 8
"""Of CODA-Prompt: two sessions have brought ten components each, with four rows for keys and four for values."""


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--pilot", type=Path, help="a checkout of LAMDA-PILOT")
    where.add_argument("--mammoth", type=Path, help="a checkout of mammoth")
    parser.add_argument("--repeats", type=int, default=6)
    asked = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    options = Options(torch.device("cpu"), [SIZE], asked.repeats)
    images, labels = ours.images(ours.BATCH[SIZE], options.device), ours.labels(ours.BATCH[SIZE], options.device)
    sys.path.insert(0, str(asked.pilot or asked.mammoth))
    name, networks = ("LAMDA-PILOT", pilot) if asked.pilot else ("mammoth", mammoth)
    for method, (network, trained, forward) in networks().items():
        mine = our_step(method, options)
        row = paired(lambda: mine(mine.batch(images, labels=labels)), their_step(network, trained, forward, images, labels), options)  # noqa: B023
        show(row.row("peers", f"{method}, steps per second, {SIZE}", name))


Network = tuple[nn.Module, list[nn.Parameter], Callable[[nn.Module, Tensor], tuple[Tensor, Any]]]
"""A network, what is given to its optimizer, and from images to logits [B, C] and what is added to the loss."""


def pilot() -> dict[str, Network]:
    """CODA-Prompt, and L2P with five prompts of five tokens before the image's, chosen by the batch, as there by default."""
    nets, vit, prompts = (import_module(name) for name in ("utils.inc_net", "backbone.vit_coda_promtpt", "backbone.prompt"))
    coda = bare(nets.CodaPromptVitNet)
    coda.backbone = vit.VisionTransformer(img_size=224, patch_size=16, embed_dim=WIDTH, depth=12, num_heads=HEADS)
    coda.fc = nn.Linear(WIDTH, len(ours.CLASSES))
    coda.prompt = prompts.CodaPrompt(WIDTH, SESSIONS, [COMPONENTS, float(ROWS), 0.0], key_dim=WIDTH)
    coda.prompt.process_task_count()
    l2p, make = bare(nets.PromptVitNet), import_module("backbone.vit_l2p").vit_tiny_patch16_224_l2p
    options = {"prompt_length": 5, "pool_size": 10, "top_k": 5, "prompt_pool": True, "prompt_key": True, "batchwise_prompt": True}
    l2p.backbone = make(num_classes=len(ours.CLASSES), embedding_key="cls", prompt_init="uniform", head_type="prompt", **options)
    l2p.original_backbone = make(num_classes=len(ours.CLASSES)).eval().requires_grad_(False)
    for name, parameter in l2p.backbone.named_parameters():
        parameter.requires_grad_(not name.startswith(("blocks", "patch_embed", "cls_token", "norm", "pos_embed")))

    def of_l2p(network: nn.Module, images: Tensor) -> tuple[Tensor, Any]:
        found = network(images, task_id=1, train=True)
        return found["logits"], -0.1 * found["reduce_sim"]

    return {
        "coda_prompt": (coda, [*coda.prompt.parameters(), *coda.fc.parameters()], lambda network, images: network(images, train=True)),
        "l2p": (l2p, [p for p in l2p.parameters() if p.requires_grad], of_l2p),
    }


def mammoth() -> dict[str, Network]:
    """CODA-Prompt. `models` is entered without its own list of all methods, which fetches weights as it is imported."""
    sys.modules["models"] = package = types.ModuleType("models")
    package.__path__ = [str(Path(sys.path[0]) / "models")]
    theirs = import_module("models.coda_prompt_utils.model")
    coda = bare(theirs.Model)
    coda.task_id = 1
    coda.feat = theirs.VisionTransformer(img_size=224, patch_size=16, embed_dim=WIDTH, depth=12, num_heads=HEADS, drop_path_rate=0)
    coda.last = nn.Linear(WIDTH, len(ours.CLASSES))
    coda.prompt = theirs.CodaPrompt(WIDTH, SESSIONS, [COMPONENTS, ROWS, 0.0], key_dim=WIDTH)
    coda.prompt.process_task_count()
    trained = [*coda.prompt.parameters(), *coda.last.parameters()]
    return {"coda_prompt": (coda, trained, lambda network, images: network(images, train=True))}


def bare(kind: Any) -> Any:
    """One of their networks without what its `__init__` makes, which is ViT-B with weights from the net."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    return made


_zeros = torch.zeros


def no_leaf(*args: Any, requires_grad: bool = False, **kwargs: Any) -> Tensor:
    """`torch.zeros` for their CODA-Prompt, which adds to one in place that wants a gradient: as they move it to a GPU, it is no leaf."""
    made = _zeros(*args, requires_grad=requires_grad, **kwargs)
    return made * 1 if requires_grad else made


def their_step(network: nn.Module, trained: list[nn.Parameter], forward: Callable[..., Any], images: Tensor, labels: Tensor) -> Call:
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    network.train()

    def step() -> float:
        with mock.patch("torch.zeros", no_leaf):
            logits, more = forward(network, images)
        logits[:, : ours.FIRST_NEW] = float("-inf")
        loss = F.cross_entropy(logits, labels) + torch.as_tensor(more).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(method: str, options: Options) -> ours.OurStep:
    settings = {"coda_prompt": CodaPromptSettings, "l2p": L2PSettings}[method]()
    return ours.OurStep(
        ours.vit(SIZE), settings.method(), ours.session(), ours.accelerator(options.device), before=lambda tuner: tuner.grow("default", ())
    )


def show(row: Row) -> None:
    low, high = row.spread or (row.ratio, row.ratio)
    sys.stdout.write(f"| {row.group} | {row.name} | {row.against} | {row.ratio:.3f} | {low:.3f} to {high:.3f} |  |  | {row.detail} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
