"""Everything that needs a GPU, in one go: `make gpu`, or `python -m benchmarks.on_a_gpu`.

For a machine with a CUDA device and no network. It installs nothing; what is missing is said. First the tests marked `gpu`, then the GPU's
rows of docs/performance.md; the last thing it prints is a table in Markdown, also written to `--output`. Both are stopped where they take
longer than `--minutes`, so that a table comes out in any case.

    python -m benchmarks.on_a_gpu --device cpu --tiny     # the rehearsal: every line runs, the figures mean nothing
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
NEEDED = ("torch", "transformers", "peft", "accelerate", "datasets", "open_clip", "timm", "pytest", "hf_cl")


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.on_a_gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: a rehearsal")
    parser.add_argument("--tiny", action="store_true", help="a few tests and narrow towers")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all of it; half of that for the tests at most")
    parser.add_argument("--output", type=Path, default=Path("gpu.md"), help="where the table goes too")
    arguments = parser.parse_args()
    absent = missing(arguments.device)
    if absent:
        sys.stderr.write("".join(f"missing: {line}\n" for line in absent))
        return 2
    started = time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4")}
    tests = _tests(arguments, environment)
    left = 60 * arguments.minutes - (time.monotonic() - started)
    table = "\n".join([*tests, "", *_rows(arguments, environment, left)]) + "\n"
    arguments.output.write_text(table)
    sys.stdout.write(table)
    return 0 if "failed" not in tests[0] and "error" not in tests[0] else 1


def missing(device: str) -> list[str]:
    """What has to be there and is not, with what to do."""
    lines = [
        f"the package {name}: pip install -e '.[test]' (from wheels, where there is no network)"
        for name in NEEDED
        if importlib.util.find_spec(name) is None
    ]
    if not lines and device == "cuda":
        import torch  # noqa: PLC0415 (it may be what is missing)

        if not torch.cuda.is_available():
            build = torch.version.cuda or "no CUDA"
            lines.append(f"a CUDA device: torch {torch.__version__} (built for {build}) sees none; look at nvidia-smi and the driver")
    return lines


def _tests(arguments: argparse.Namespace, environment: dict[str, str]) -> list[str]:
    """One line on the tests marked `gpu`, and the names of those that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    if arguments.device == "cpu":
        environment = {**environment, "HF_CL_GPU_TESTS_ON_CPU": "1"}
        command[-1] = "tests/gpu"
    elif importlib.util.find_spec("xdist") is not None:  # models are tiny: the host is what they wait for
        command += ["-n", str(max(1, min(4, (os.cpu_count() or 1) // 2)))]
    if arguments.tiny:
        command += ["-k", "rehearsed"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=30 * arguments.minutes
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")[-300:]
        return [f"Tests: error, not done after {arguments.minutes / 2:.1f} minutes; so far: {said.splitlines()[-1] if said else 'nothing'}"]
    lines = done.stdout.splitlines()
    summary = lines[-1].strip("= ") if lines else f"error, pytest ended with {done.returncode}"
    failed = [re.sub(r" - .*", "", line) for line in lines if line.startswith(("FAILED", "ERROR"))]
    return [f"Tests marked `gpu`: {summary}.", *(f"- {line}" for line in failed)]


def _rows(arguments: argparse.Namespace, environment: dict[str, str], seconds: float) -> list[str]:
    """The benchmark's lines, those that came before the time was over."""
    with tempfile.TemporaryDirectory() as folder:
        said, file = Path(folder) / "said", Path(folder) / "rows.json"
        command = [sys.executable, "-m", "benchmarks", "gpu", "--device", arguments.device, "--json", str(file)]
        command += ["--sizes", "rehearsal", "--repeats", "1"] if arguments.tiny else ["--sizes", "base"]
        with said.open("w") as out:
            try:
                done = subprocess.run(
                    command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.PIPE, check=False, timeout=max(seconds, 30)
                )
                end = [] if done.returncode == 0 else [f"The rows ended early: {(done.stderr.decode().splitlines() or ['?'])[-1]}"]
            except subprocess.TimeoutExpired:
                end = ["The rows ended early: the time was over."]
        lines = [line for line in said.read_text().splitlines() if line]
        if file.exists() and not json.loads(file.read_text()):
            end.append("There were no rows.")
    return [*lines, *end]


if __name__ == "__main__":
    raise SystemExit(main())
