"""The average of two runs, and one adapter distilled from them: `ensemble_case.py RESULT.json MEMBERS`, by two processes or none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from run_snippets import six_of_each

from hf_cl.run.distill import Distillation, distill
from hf_cl.run.ensemble import evaluate_ensemble, open_members
from hf_cl.scenarios import sources
from hf_cl.training.accelerator import leave_group


def run(folder: Path, members: Path) -> dict[str, Any]:
    """The numbers of both."""
    runs = [members / "lora-0", members / "lora-1"]
    average = evaluate_ensemble(open_members(runs, folder / "average", cpu=True))
    how = Distillation(student=["epochs=1", "mixed_precision=no", "augmentation=none"])
    student = distill(open_members(runs, folder / "student", cpu=True), how, quiet=True)
    return {"average": average.numbers, "counts": average.class_accuracy_matrix, "student": student.class_accuracy_matrix}


def main(result: Path, members: Path) -> None:
    torch.set_num_threads(1)
    sources.read_digits = six_of_each
    found = run(result.parent, members)
    if os.environ["RANK"] == "0":
        result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    leave_group()
