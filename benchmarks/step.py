"""A training step of hf_cl's loop beside a hand-written PyTorch loop with the same adapter, in one run.

    python benchmarks/step.py                        # ViT-Ti/16 at 224 px, batch 32, CPU
    python benchmarks/step.py --device cuda --width 768 --heads 12 --batch 128

Both train the same OnePrompt adapter and head by masked cross-entropy and Adam on the same images. The steps alternate, so that both
see the same machine; the ratio is of medians. It also counts what must not happen in a step: a second forward, a gradient on a frozen
weight.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from peft import get_peft_model
from transformers import ViTConfig, ViTForImageClassification

from hf_cl.adapters import OnePromptConfig
from hf_cl.backbones import ImageClassifier
from hf_cl.contracts import Session
from hf_cl.methods import ovor
from hf_cl.training.prepare import prepare_phase
from hf_cl.training.step import MicroBatch, Stepper
from hf_cl.training.tensors import named_parameters

CLASSES = [f"class {i}" for i in range(20)]
FIRST_NEW = 10


def adapted(width: int, heads: int):
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=width, num_hidden_layers=12, num_attention_heads=heads, intermediate_size=4 * width, num_labels=0)
    return get_peft_model(ViTForImageClassification(config), OnePromptConfig(class_names=list(CLASSES)))


def hand_written(model, images, labels, device):
    """The loop somebody would write for this one case."""
    model = model.to(device).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)

    def step(number: int) -> None:
        logits = model(pixel_values=images).logits
        loss = F.cross_entropy(logits[:, FIRST_NEW:], labels - FIRST_NEW)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def with_hf_cl(model, images, labels, accelerator):
    """The loop of the package, on the same batch."""
    model = model.to(accelerator.device)
    session = Session(1, tuple(CLASSES), tuple(CLASSES[FIRST_NEW:]), train=(), tests=())
    method = ovor(epochs=1, vor_epochs=0)
    phase = next(phase for phase in method.phases(session) if phase.epochs)
    head = model.base_model.head_wrapper().head("default")
    named = named_parameters(model, model.base_model.prefix, head, phase.losses)
    optimizer, schedule = method.optimizer(session, named)
    classifier = ImageClassifier(model.get_base_model(), model.base_model.head_wrapper())
    prepared, optimizer = prepare_phase(accelerator, classifier, optimizer)
    prepared.train()
    stepper = Stepper(phase, session, method.rule, prepared, optimizer, named, accelerator, None, None)
    batch = MicroBatch({"pixel_values": images, "labels": labels, "index": labels}, 1.0)
    return lambda number: stepper.step([batch], 0, number, schedule(0, number))


def seconds(step, number: int, device: torch.device) -> float:
    started = time.perf_counter()
    step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    accelerator = Accelerator(cpu=options.device == "cpu")
    device = accelerator.device
    images = torch.randn(options.batch, 3, 224, 224, device=device)
    labels = torch.randint(FIRST_NEW, len(CLASSES), (options.batch,), device=device)
    model = adapted(options.width, options.heads)
    twin = copy.deepcopy(model)
    forwards: list[int] = []
    twin.get_base_model().vit.embeddings.register_forward_hook(lambda *_: forwards.append(1))
    ours, theirs = with_hf_cl(twin, images, labels, accelerator), hand_written(model, images, labels, device)

    times: dict[str, list[float]] = {"hf_cl": [], "hand-written": []}
    for number in range(options.steps + 3):
        for name, step in (("hf_cl", ours), ("hand-written", theirs)):
            elapsed = seconds(step, number, device)
            if number >= 3:  # the first steps warm caches
                times[name].append(elapsed)
    frozen = [name for name, p in twin.named_parameters() if not p.requires_grad and p.grad is not None]
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [a / b for a, b in zip(times["hf_cl"], times["hand-written"], strict=True)]
    print(
        f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; ViT {options.width} wide, 224 px, batch {options.batch}"
    )
    for name, median in medians.items():
        print(f"  {name:<14}{1e3 * median:9.1f} ms a step")
    of_medians = medians["hf_cl"] / medians["hand-written"]
    print(f"  ratio {of_medians:.3f} (of medians), {statistics.median(ratios):.3f} (median of pairs); goal 1.05")
    print(f"  forwards per step {len(forwards) / (options.steps + 3):g}, frozen weights with a gradient {len(frozen)}")


if __name__ == "__main__":
    main()
