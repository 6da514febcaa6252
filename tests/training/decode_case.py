"""One small run by the command line's way, which counts the pictures that this process decodes: `decode_case.py DATA FOLDER`."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import torch

import hf_cl.training.evaluation as evaluation
from hf_cl.methods.baselines import LoraSettings
from hf_cl.run import train
from hf_cl.scenarios.image_store import FileStore

torch.set_num_threads(1)
decoded: Counter[str] = Counter()


def counted(method):
    def wrapper(self, row):
        decoded[self.file_names[row]] += 1
        return method(self, row)

    return wrapper


def main() -> None:
    FileStore.open, FileStore.decode = counted(FileStore.open), counted(FileStore.decode)
    evaluation.write_examples = lambda *args: None  # it takes a dozen pictures for the report
    settings = LoraSettings(
        output_dir=sys.argv[2], dataset=sys.argv[1], epochs=2, head={"type": "prototype"}, batch_size=8, eval_batch_size=4,
        num_base_classes=2, classes_per_session=2, cpu=True,
    )  # fmt: skip
    train(settings, quiet=True)
    Path(sys.argv[2], f"decoded-{os.environ.get('RANK', '0')}.txt").write_text(str(sum(decoded.values())))


if __name__ == "__main__":
    main()
