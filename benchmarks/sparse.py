"""SARA's step and memory against LoRA and SHiRA of equal trainable size, and against dense gradients with a mask (sara_memory.py)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft import LoraConfig, ShiraConfig

from benchmarks.measure import MIB, Options, Pair, Row, flops, paired
from benchmarks.sara_memory import TARGETS, Case, adapted, dense, equal_density, vit
from hf_cl.adapters import SaraConfig

LAYERS, BATCH, RANK = 2, 4, 16


def rows(options: Options) -> Iterator[Row]:
    """On matrices of ViT-B's widths, in two layers of them."""
    density = equal_density(vit(LAYERS), RANK)
    pixels = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(options.device)
    builds = {
        "SARA": adapted(LAYERS, SaraConfig(target_modules=TARGETS, density=density), decay=1e-2),
        "LoRA": adapted(LAYERS, LoraConfig(target_modules=TARGETS, r=RANK, lora_dropout=0.0)),
        "SHiRA": adapted(LAYERS, ShiraConfig(target_modules=TARGETS, r=RANK, random_seed=0)),
        "dense + mask": dense(LAYERS, density),
    }
    cases = {name: Case(name, build, pixels) for name, build in builds.items()}
    memory = {name: {"saved": case.saved(), "peak": case.peak(), "optimizer": case.states()} for name, case in cases.items()}
    for other, goal in (("LoRA", "<= 1.05"), ("SHiRA", "<= 1.0"), ("dense + mask", "")):
        for what in ("saved", "peak", "optimizer"):
            a, b = memory["SARA"][what], memory[other][what]
            name = {"saved": "saved for backward", "peak": "peak beyond weights", "optimizer": "optimizer state"}[what]
            yield Row("SARA", name, other, a / b, goal, f"{a / MIB:.1f} against {b / MIB:.1f} MiB")
    for other, goal in (("LoRA", "<= 1.15"), ("SHiRA", ""), ("dense + mask", "")):
        row = _time_row("step, its time over theirs", other, paired(cases["SARA"].step, cases[other].step, options, warmup=1), goal)
        row.detail += f"; it does {flops(cases['SARA'].step) / flops(cases[other].step):.2f} of its operations"
        yield row
    rank = Case("rank", builds["SARA"], pixels)
    plain = rank.loss
    rank.loss = lambda: plain() + 5e-4 * rank.model.base_model.rank_loss(0)  # pyright: ignore
    yield _time_row("step with the rank term", "without", paired(rank.step, cases["SARA"].step, options, warmup=1), "")


def _time_row(name: str, against: str, pair: Pair, goal: str) -> Row:
    row = pair.row("SARA", name, against, goal)
    low, high = row.spread or (row.ratio, row.ratio)
    return Row(row.group, row.name, against, 1 / row.ratio, goal, row.detail.split(",")[0], (1 / high, 1 / low))
