"""Small runs with class names as the head, in one process or in two: `text_heads_case.py METHOD OUTPUT PHOTOS`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import two_towers
from clip_runs import processor

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import GladConfig
from hf_cl.contracts import Method
from hf_cl.methods import compose, cpe_clip, glad
from hf_cl.scenarios import few_shot_class_incremental, open_images

torch.set_num_threads(1)

WORDS_HEAD = {"type": "text", "learned_words": "auto", "words_steps": 5}

METHODS: dict[str, Callable[[], Method]] = {
    "cpe_clip": lambda: cpe_clip(base_epochs=2, session_epochs=2, session_batch_size=2, lr_per_epoch=[0.01, 0.01]),
    "glad": lambda: glad(adapter=GladConfig(lora_dropout=0.0), iterations=6, session_iterations=2),
    "words": lambda: compose(
        adapter={"type": "glad", "lora_dropout": 0.0},
        head=dict(WORDS_HEAD),
        losses={"text_replay": {}},
        epochs=1,
        optimizer={"type": "sgd"},
    ),
}
"""Without dropout, whose masks are drawn per process."""


def run(name: str, output: Path, photos: Path) -> None:
    """Sessions of 4, 1 and 1 classes."""
    settings = TrainingSettings(output_dir=str(output), batch_size=8, eval_batch_size=8, augmentation="none", cpu=True, seed=3)
    scenario = few_shot_class_incremental(open_images(str(photos)), 4, 1, 4)
    base, tokenizer = two_towers.base("clip"), two_towers.tokenizer()
    ContinualTrainer(base, processor(), METHODS[name](), scenario, settings, quiet=True, tokenizer=tokenizer).fit()


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
