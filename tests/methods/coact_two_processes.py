"""A small run of CoACT. Started by processes.py, with the path of a JSON file beside which the run folder is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from coact_runs import build


def main(result: Path) -> None:
    torch.set_num_threads(1)
    trainer = build(result.parent / "two", lora_dropout=0.0, sessions=2)
    trainer.fit()
    if trainer.accelerator.is_main_process:
        result.write_text(json.dumps({"processes": trainer.accelerator.num_processes}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
