"""Memory and arithmetic of a training step of the adapters that change weights, beside SARA's and LoRA's on the same matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft import LoraConfig

from benchmarks.measure import MIB, Options, Row, flops
from benchmarks.sara_memory import TARGETS, Build, Case, adapted, equal_density, vit
from hf_cl.adapters import CompanderConfig, DstConfig, LowRankConfig, MaskTuningConfig, SaraConfig

LAYERS, BATCH, RANK = 2, 4, 16
NAMES = {"saved": "saved for backward", "peak": "peak beyond weights", "optimizer": "optimizer state"}


def builds(density: float) -> dict[str, Build]:
    """Type -> its training; sizes are those of a LoRA of rank 16 where the type has a size."""
    return {
        "DST": adapted(LAYERS, DstConfig(target_modules=TARGETS, density=density)),
        "MASK_TUNING": adapted(LAYERS, MaskTuningConfig(target_modules=TARGETS)),
        "COMPANDER": adapted(LAYERS, CompanderConfig(target_modules=TARGETS, r=RANK, lora_alpha=RANK)),
        "LOW_RANK": adapted(LAYERS, LowRankConfig(target_modules=TARGETS)),
    }


def rows(options: Options) -> Iterator[Row]:
    """On matrices of ViT-B's widths, in two layers of them."""
    density = equal_density(vit(LAYERS), RANK)
    pixels = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(options.device)
    marks = {
        "SARA": adapted(LAYERS, SaraConfig(target_modules=TARGETS, density=density), decay=1e-2),
        "LoRA": adapted(LAYERS, LoraConfig(target_modules=TARGETS, r=RANK, lora_dropout=0.0)),
    }
    against = {name: _measured(Case(name, build, pixels)) for name, build in marks.items()}
    for kind, build in builds(density).items():
        mine = _measured(Case(kind, build, pixels))
        for other, theirs in against.items():
            for what, name in NAMES.items():
                a, b = mine[what], theirs[what]
                yield Row(kind, name, other, a / b, "", f"{a / MIB:.1f} against {b / MIB:.1f} MiB")
        yield Row(kind, "operations of a step", "LoRA", mine["flops"] / against["LoRA"]["flops"], "", "sampled products are not counted")


def _measured(case: Case) -> dict[str, float]:
    return {"saved": case.saved(), "peak": case.peak(), "optimizer": case.states(), "flops": flops(case.step)}
