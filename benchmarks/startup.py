"""What a user waits for before anything happens, in fresh processes."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.measure import Options, Row

LIBRARIES = [sys.executable, "-c", "import torch, transformers, peft; from peft import get_peft_model"]
OURS = [sys.executable, "-c", "import hf_cl"]
MISTYPED = [
    sys.executable,
    "-c",
    "import sys; sys.argv = ['hf-cl', 'train', 'ovor', '--config', 'demo', '--help']; from hf_cl_command import main; main()",
]
FIRST_STEP = """
import os, sys
import hf_cl_command
from hf_cl.training.step import Stepper

step = Stepper.step

def last(*arguments):
    step(*arguments)
    os._exit(0)

Stepper.step = last
sys.argv = ["hf-cl", "train", "ovor", "--config", "demo", "--cpu", "--output_dir", sys.argv[1]]
hf_cl_command.main()
raise SystemExit("no step was made")
"""
HELP = [sys.executable, "-c", "import sys; sys.argv = ['hf-cl', '--help']; from hf_cl_command import main; main()"]


def rows(options: Options) -> Iterator[Row]:
    """Differences in seconds of processor time, medians."""
    times: dict[str, list[float]] = {"libraries": [], "hf_cl": [], "help": [], "settings": []}
    for _ in range(max(3, options.repeats // 2)):
        for name, command in zip(times, (LIBRARIES, OURS, HELP, MISTYPED), strict=True):
            times[name].append(_seconds(command))
    libraries, ours, its_help, settings = (sorted(values)[len(values) // 2] for values in times.values())
    detail = f"{ours:.2f} against {libraries:.2f} s"
    yield Row("start", "import hf_cl, seconds more", "torch, transformers, peft", ours - libraries, "<= 0.3", detail)
    yield Row("start", "hf-cl --help, seconds more", "import hf_cl", its_help - ours, "<= 0.3", f"{its_help:.2f} s")
    yield Row("start", "hf-cl train ovor --help, seconds", "nothing", settings, "<= 1.0", f"{settings:.2f} s; a mistyped setting alike")
    first = sorted(_first_step() for _ in range(3))[1]
    yield Row(
        "start", "from the command to the end of the first step, seconds", "nothing", first, "<= 4.5", "ovor, config demo, second start"
    )


def _first_step() -> float:
    """Of a run that ends after its first step; the images have been looked at before, as in every start but the first."""
    with tempfile.TemporaryDirectory() as folder:
        return _seconds([sys.executable, "-c", FIRST_STEP, folder])


def _seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
