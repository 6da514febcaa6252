"""Runs on disk that make an ensemble, and stand-ins for their parts."""

from __future__ import annotations

from pathlib import Path

from run_snippets import six_of_each

from hf_cl.methods import METHODS
from hf_cl.run import parse_settings, train
from hf_cl.scenarios import sources

STREAM = ["--dataset", "digits", "--num_base_classes", "5", "--classes_per_session", "5", "--class_order", "natural", "--cpu"]


def train_member(folder: Path, method: str, *flags: str, seed: int = 0) -> Path:
    """A run on six digits of each class, in two sessions."""
    words = [*STREAM, "--seed", str(seed), "--epochs", "2", "--output_dir", str(folder), *flags]
    train(parse_settings(METHODS[method], method, words), quiet=True)
    return folder


def train_members(folder: Path) -> None:
    """Two seeds of LoRA and one of a linear probe: `lora-0`, `lora-1`, `probe`."""
    read, sources.read_digits = sources.read_digits, six_of_each
    try:
        for seed in range(2):
            train_member(folder / f"lora-{seed}", "lora", "--r", "2", "--learning_rate", "3e-3", seed=seed)
        train_member(folder / "probe", "linear_probe")
    finally:
        sources.read_digits = read
