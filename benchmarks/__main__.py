"""The table of docs/performance.md: `python -m benchmarks` (or `make bench`).

Every row is a ratio of two things that ran in this process, in turn, on this machine. Groups can be asked for by name:

    python -m benchmarks step evaluation --repeats 8
    python -m benchmarks step coact --sizes tiny,base     # ViT-B/16 and CLIP ViT-B/16 shapes too
    python -m benchmarks --device cuda

On a CPU it runs with one thread, unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.measure import Options, Row, machine

GROUPS = {
    "limits": "limits",
    "step": "steps",
    "evaluation": "evaluation",
    "two_pass": "two_pass",
    "pools": "pools",
    "lora": "plain_lora",
    "sara": "sparse",
    "weights": "weights",
    "coact": "async_lora",
    "texts": "texts",
    "data": "input",
    "predict": "prediction",
    "loop": "loop",
    "scan": "scan",
    "scale": "scale",
    "start": "startup",
    "gpu": "gpu",
}
"""Name -> module; docs say what each compares."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=[], metavar="group", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--sizes", default="tiny", help="tiny (ViT-Ti/16), base (ViT-B/16 and CLIP ViT-B/16), or both: tiny,base; rehearsal: all narrow"
    )
    parser.add_argument("--repeats", type=int, default=8, help="rounds A B B A per ratio")
    parser.add_argument("--compile", action="store_true", help="rows with torch.compile on our side")
    parser.add_argument("--large", action="store_true", help="scale: 100,000 pictures too")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.groups) - set(GROUPS))
    if unknown:
        parser.error(f"unknown group {unknown[0]!r}; choose from {', '.join(GROUPS)}")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    options = Options(torch.device(arguments.device), arguments.sizes.split(","), arguments.repeats, arguments.compile, arguments.large)
    sys.stdout.write(f"{datetime.date.today()}, commit {_commit()}\n{machine(options.device)}\n\n")
    sys.stdout.write("| | row | against | ratio | quartiles | goal | | |\n|---|---|---|---|---|---|---|---|\n")
    found = []
    for group in arguments.groups or GROUPS:
        for row in import_module(f"benchmarks.{GROUPS[group]}").rows(options):
            found.append(row)
            sys.stdout.write(_line(row) + "\n")
            sys.stdout.flush()
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1))


def _line(row: Row) -> str:
    spread = "" if row.spread is None else f"{row.spread[0]:.3f} to {row.spread[1]:.3f}"
    met = {None: "", True: "met", False: "missed"}[row.met]
    return f"| {row.group} | {row.name} | {row.against} | {row.ratio:.3f} | {spread} | {row.goal} | {met} | {row.detail} |"


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
