"""Paired measurements and the rows of the table.

Both sides of a ratio run in one process, in turn (A B B A, A B B A, ...), so that a machine which slows down or is shared slows both. On a
CPU the clock counts the processor time of this process over all its threads, which other programs do not add to; on a GPU it is the wall
clock, with the device awaited.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Call = Callable[[], Any]
MIB = 2**20


@dataclass
class Options:
    """What a group of rows is told."""

    device: torch.device
    sizes: list[str]
    repeats: int
    compile: bool = False
    large: bool = False
    """Sizes that take many minutes, too."""


@dataclass
class Row:
    """One line of the table: a ratio, what it should be, and what it was made of."""

    group: str
    name: str
    against: str
    ratio: float
    goal: str = ""
    """Such as ">= 0.95"; empty for a figure that is shown without a goal."""
    detail: str = ""
    spread: tuple[float, float] | None = field(default=None)
    """Quartiles of the ratios of the single pairs."""

    @property
    def met(self) -> bool | None:
        if not self.goal:
            return None
        sense, number = self.goal.split()
        return self.ratio >= float(number) if sense == ">=" else self.ratio <= float(number)


@dataclass
class Pair:
    """Seconds of both sides, pair by pair."""

    ours: list[float]
    theirs: list[float]

    @property
    def speed(self) -> float:
        """How many times as fast as theirs ours is: the median over the pairs."""
        return statistics.median(self.ratios)

    @property
    def ratios(self) -> list[float]:
        return [b / a for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def spread(self) -> tuple[float, float]:
        low, _, high = statistics.quantiles(self.ratios, n=4) if len(self.ratios) > 1 else (self.ratios[0],) * 3
        return low, high

    def row(self, group: str, name: str, against: str, goal: str = "", detail: str = "", scale: float = 1.0) -> Row:
        """A row of `speed * scale`, with both medians in front of the detail."""
        ours, theirs = statistics.median(self.ours), statistics.median(self.theirs)
        text = f"{1e3 * ours:.1f} against {1e3 * theirs:.1f} ms, of medians {scale * theirs / ours:.3f}"
        low, high = self.spread
        return Row(group, name, against, self.speed * scale, goal, "; ".join(filter(None, (text, detail))), (low * scale, high * scale))


def paired(ours: Call, theirs: Call, options: Options, warmup: int = 2) -> Pair:
    """Run both in turn, A B B A for each pair, so that a drift of the machine's speed falls out. The first `warmup` runs do not count."""
    for _ in range(warmup):
        ours()
        theirs()
    times: dict[Call, list[float]] = {ours: [], theirs: []}
    for _ in range(options.repeats):
        for side in (ours, theirs, theirs, ours):
            times[side].append(seconds(side, options.device))
    return Pair(*([(a + b) / 2 for a, b in zip(side[::2], side[1::2], strict=True)] for side in times.values()))


def seconds(call: Call, device: torch.device) -> float:
    started = now(device)
    call()
    return now(device) - started


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class FlopCounter(TorchDispatchMode):
    """PyTorch's formulas, and those of the attention kernel that a CPU runs, which it leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        out, packet = func(*args, **(kwargs or {})), func._overloadpacket
        if packet is _ATTENTION:
            self.total += sdpa_flop_count(*(t.shape for t in args[:3]))
        elif packet is _ATTENTION_BACKWARD:
            self.total += sdpa_backward_flop_count(*(t.shape for t in args[:4]))
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def counted(call: Call) -> FlopCounter:
    """`total` floating-point operations of a call, and its `calls` of PyTorch's operations, views included."""
    with FlopCounter() as counter:
        call()
    return counter


def flops(call: Call) -> int:
    """Floating-point operations of matrix products, convolutions and attention (2 per multiply-add)."""
    return counted(call).total


def storages(*values: Any) -> dict[int, torch.UntypedStorage]:
    """Storages of all tensors in `values`, each once; sparse tensors have none of their own."""
    tensors = [t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.layout == torch.strided]
    return {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}


def resident_bytes(*values: Any) -> int:
    """Bytes of all tensors in `values`; shared storage counts once."""
    return sum(storage.nbytes() for storage in storages(values).values())


def saved_bytes(forward: Callable[[], torch.Tensor], *own: Any) -> int:
    """Bytes that a forward pass keeps for its backward pass, beyond the tensors in `own` (weights, inputs)."""
    known, found = storages(own), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            found[storage._cdata] = storage  # held, so that its address is not given away again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = forward()
    total = sum(storage.nbytes() for storage in found.values())
    del loss
    return total


class LivePeak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = storages(args, kwargs)
        out = func(*args, **(kwargs or {}))
        for key, storage in storages(out).items():
            if key not in self.alive and key not in before:
                self.alive.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return out

    def _gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def machine(device: torch.device) -> str:
    """Device, threads and versions, in two lines."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    libraries = ", ".join(f"{package} {version(package)}" for package in ("torch", "transformers", "peft", "accelerate"))
    return f"{name}; load average {os.getloadavg()[0]:.1f}\nPython {platform.python_version()}, {libraries}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
