"""One LoRA that stands for several: the mean of their changes to the weights, cut to a rank. Nothing is trained.

Shapes: O, I width of a layer's output and input; r rank of the result.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_cl.adapters.files import check_folder
from hf_cl.checkpoints.statistics_files import STATISTICS_FILE
from hf_cl.hints import refuse

TYPE = "GLAD"
"""The peft type that is a plain LoRA: of `lora`, `glad` and compositions of it."""
HEADS = ("linear", "prototype", "text")
"""Heads whose mean of rows is the mean of what they say; class names have no rows."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


def mean_change(
    changes: Sequence[tuple[Tensor, Tensor, float]], rank: int
) -> tuple[Tensor, Tensor, float]:  # [O, r_k], [r_k, I] -> [O, r], [r, I]
    """B and A of the best approximation of rank r of the mean change `D = 1/K sum_k s_k B_k A_k`, and the share of `||D||^2` it keeps.

    `changes` are (B_k, A_k, s_k). The factors themselves have no mean: B_k and A_k are known up to an invertible matrix between them.
    """
    mean = torch.stack([scale * (b @ a) for b, a, scale in changes]).mean(0)  # [O, I]
    left, values, right = torch.linalg.svd(mean, full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    whole = values.square().sum()
    kept = float(values[:rank].square().sum() / whole) if whole > 0 else 1.0
    return left[:, :rank] * root, root[:, None] * right[:rank], kept


def faults_of_mean(configs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Why adapters have no mean, a sentence for each of them."""
    faults = []
    for config, name in zip(configs, names, strict=True):
        head = (config.get("head") or {"type": "linear"})["type"]
        if config.get("peft_type") != TYPE:
            kind = config.get("peft_type")
            faults.append(f"{name} is of type {kind}: the mean of its tensors is not the mean of what it does; LoRA has one.")
        elif config.get("small") is not None:
            faults.append(f"{name} is a small one (hf-cl export --form small); average the adapters it was made of.")
        elif config.get("rank_pattern") or config.get("alpha_pattern"):
            faults.append(f"{name} has ranks or scales of its own for some layers.")
        elif head not in HEADS:
            faults.append(f"{name} has a head of type {head}; the mean of rows means something under {', '.join(HEADS)}.")
    return faults


def write_mean(folders: Sequence[Path], target: Path) -> dict[str, float]:
    """Write the mean of LoRA adapters of one base as an adapter like the first: its rank, its processor. Rows of the head are averaged.

    Returns the kept energy by layer. A temperature is not taken over: none was found for the mean.

    Raises ValueError, with all that is wrong, where the adapters have no mean.
    """
    for folder in folders:
        check_folder(folder)
    configs: list[dict[str, Any]] = [json.loads((folder / CONFIG_NAME).read_text()) for folder in folders]
    faults = faults_of_mean(configs, [str(folder) for folder in folders])
    tensors = [load_file(folder / SAFETENSORS_WEIGHTS_NAME) for folder in folders]
    pairs = zip(folders, tensors, strict=True)
    faults += [f"{folder} has other layers than {folders[0]}." for folder, own in pairs if own.keys() != tensors[0].keys()]
    refuse(faults)
    scale, rank, kept, made = _scale(configs[0]), configs[0]["r"], {}, {}
    for name in tensors[0]:
        if name.endswith(_A):
            continue
        if not name.endswith(_B):
            made[name] = torch.stack([own[name].double() for own in tensors]).mean(0).to(tensors[0][name].dtype)
            continue
        layer = name.removesuffix(_B)
        changes = [(own[name].double(), own[layer + _A].double(), _scale(c)) for own, c in zip(tensors, configs, strict=True)]
        b, a, kept[layer] = mean_change(changes, rank)
        made |= {name: (b / scale).to(tensors[0][name].dtype), layer + _A: a.to(tensors[0][layer + _A].dtype)}
    aside = target.with_name(f".writing-{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(folders[0], aside, ignore=shutil.ignore_patterns("README.md", SAFETENSORS_WEIGHTS_NAME, CONFIG_NAME, STATISTICS_FILE))
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, aside / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    (aside / CONFIG_NAME).write_text(json.dumps(configs[0] | {"temperature": None}, indent=2, ensure_ascii=False))
    aside.rename(target)
    return kept


def _scale(config: Mapping[str, Any]) -> float:
    """peft's own: alpha / r, or alpha / sqrt(r)."""
    return config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
