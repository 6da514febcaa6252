"""Memory and time of a training step with SARA, LoRA and SHiRA of equal trainable size, and with dense gradients.

    python benchmarks/sara_memory.py [--layers 4] [--batch 8] [--rank 16] [--device cuda]

All of them adapt the attention and MLP matrices of one ViT with the widths of ViT-B. `dense` is plain PyTorch doing SARA's arithmetic: the
matrices have gradients and Adam's states of full size, and a mask picks the entries (the official adamw2). `saved` are the bytes kept for
the backward pass, weights apart; `peak` the most that was alive at once beyond weights and optimizer states; `states` the optimizer's.
Times are medians over interleaved rounds of one run, on a CPU in processor seconds over all threads (which hold where other programs share
the machine); ratios are those of the run.
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, ShiraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import ViTConfig, ViTModel

from hf_cl.adapters import SaraConfig
from hf_cl.adapters.sara import attach

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
MIB = 2**20


def storages(*values: Any) -> list[torch.UntypedStorage]:
    """Of all tensors in `values`; a sparse tensor has two (SHiRA's differences) or three (SARA's gradient on a CPU)."""
    tensors = [t for t in tree_leaves(values) if isinstance(t, torch.Tensor)]
    return [part.untyped_storage() for t in tensors for part in parts(t)]


def parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The dense tensors that it consists of."""
    if tensor.layout == torch.sparse_csr:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return (tensor._indices(), tensor._values()) if tensor.is_sparse else (tensor,)


class LivePeak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {storage._cdata for storage in storages(args, kwargs)}
        out = func(*args, **(kwargs or {}))
        for storage in storages(out):
            self._see(storage, before)
        return out

    def _see(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive or key in before:
            return
        self.alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def vit(layers: int) -> ViTModel:
    torch.manual_seed(0)
    return ViTModel(
        ViTConfig(hidden_size=768, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=3072), add_pooling_layer=False
    )


def equal_density(model: nn.Module, rank: int) -> float:
    """Share of the targeted matrices that has as many entries as a LoRA of `rank` on them."""
    shapes = [m.weight.shape for name, m in model.named_modules() if name.rpartition(".")[2] in TARGETS]
    return sum(rank * (o + i) for o, i in shapes) / sum(o * i for o, i in shapes)


Build = Callable[[], tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]]
"""Model, optimizer, and what happens to the gradients before the step."""


def adapted(layers: int, config: Any, decay: float | None = None) -> Build:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
        model = get_peft_model(vit(layers), config)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2 if decay is None else 0.0)
        if decay is not None:
            attach(optimizer, model.base_model, decay)
        return model, optimizer, lambda: None

    return build


def dense(layers: int, density: float) -> Build:
    def build() -> tuple[nn.Module, torch.optim.Optimizer, Callable[[], None]]:
        model = vit(layers).requires_grad_(False)
        weights = [m.weight for name, m in model.named_modules() if name.rpartition(".")[2] in TARGETS]
        masks = []
        for weight in weights:
            weight.requires_grad_()
            limit = weight.detach().abs().flatten().kthvalue(int(density * weight.numel())).values
            masks.append((weight.detach().abs() <= limit).to(weight.dtype))

        def pick() -> None:
            for weight, mask in zip(weights, masks, strict=True):
                weight.grad.mul_(mask)

        return model, torch.optim.AdamW(weights, lr=1e-4, weight_decay=0.0), pick

    return build


class Case:
    """One way to train, built and warmed up."""

    def __init__(self, name: str, build: Build, pixels: torch.Tensor) -> None:
        self.name, self.pixels = name, pixels
        self.model, self.optimizer, self.pick = build()
        self.model.to(pixels.device).train()
        self.seconds: list[float] = []
        self.step()

    def loss(self) -> torch.Tensor:
        return self.model(self.pixels).last_hidden_state[:, 0].square().mean()

    def step(self) -> None:
        self.loss().backward()
        self.pick()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def timed(self) -> None:
        started = now(self.pixels.device)
        self.step()
        self.seconds.append(now(self.pixels.device) - started)

    def saved(self) -> int:
        own = {storage._cdata for storage in storages(list(self.model.parameters()), list(self.model.buffers()), self.pixels)}
        found: dict[int, tuple[torch.UntypedStorage, int]] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            for storage in storages(tensor):
                if storage._cdata not in own:
                    found[storage._cdata] = (storage, storage.nbytes())  # held, so that its address is not given away again
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = self.loss()
        total = sum(size for _, size in found.values())
        del loss
        return total

    def peak(self) -> int:
        if self.pixels.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self.step()
            return torch.cuda.max_memory_allocated() - before
        with LivePeak() as memory:
            self.step()
        return memory.peak

    def states(self) -> int:
        return sum(t.nbytes for state in self.optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor))

    def trained(self) -> int:
        return sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help="names of the rows to measure; SARA is always one of them")
    options = parser.parse_args()
    density = equal_density(vit(options.layers), options.rank)
    pixels = torch.randn(options.batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(options.device)
    builds = {
        "SARA": adapted(options.layers, SaraConfig(target_modules=TARGETS, density=density), decay=1e-2),
        "SARA, 256 rows": adapted(options.layers, SaraConfig(target_modules=TARGETS, density=density, block_rows=256), decay=1e-2),
        "LoRA": adapted(options.layers, LoraConfig(target_modules=TARGETS, r=options.rank, lora_dropout=0.0)),
        "SHiRA": adapted(options.layers, ShiraConfig(target_modules=TARGETS, r=options.rank, random_seed=0)),
        "dense": dense(options.layers, density),
    }
    where = torch.cuda.get_device_name() if pixels.is_cuda else f"CPU, {torch.get_num_threads()} threads"
    print(f"ViT-B width, {options.layers} layers, batch {options.batch}, 224 px; LoRA rank {options.rank} = density {density:.4f}; {where}")
    chosen = builds if options.only is None else {"SARA", *options.only}
    cases = [Case(name, build, pixels) for name, build in builds.items() if name in chosen]
    memory = {case.name: (case.saved(), case.peak(), case.states()) for case in cases}
    for _ in range(options.rounds):
        for case in cases:
            case.timed()
    header = ("trained", "saved MiB", "peak MiB", "states MiB", "step s")
    print(f"{'':<16}" + "".join(f"{name:>11}" for name in header) + "   SARA / it:  saved    peak    time")
    measured = {case.name: (*memory[case.name], statistics.median(case.seconds)) for case in cases}
    ours = measured["SARA"]
    for case in cases:
        saved, peak, states, seconds = measured[case.name]
        row = (
            f"{case.name:<16}{case.trained():>11}" + "".join(f"{size / MIB:>11.1f}" for size in (saved, peak, states)) + f"{seconds:>11.3f}"
        )
        print(row + " " * 12 + f"{ours[0] / saved:>8.3f}{ours[1] / peak:>8.3f}{ours[3] / seconds:>8.3f}")


if __name__ == "__main__":
    main()
