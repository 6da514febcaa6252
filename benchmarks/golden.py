"""Whether short runs of all methods end with the bits of another commit: adapters tensor by tensor, metrics number by number.

    python benchmarks/golden.py fe51f5b            # that commit against this checkout
    python benchmarks/golden.py fe51f5b --to main

The runs are those of each commit's own `tests/five_runs.py`, and the baselines beside them, in processes of their own. Exit status 1
where anything differs. Only what both commits report is compared: a metric that was added since is none that has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHOWN = 5
RUNNER = """
import hashlib, json, sys
from dataclasses import replace
from pathlib import Path

import five_runs, torch
from hf_cl.methods import linear_probe, lora, nearest_class_mean
from safetensors.torch import load_file

torch.set_num_threads(1)
baselines = {"lora": lambda: lora(epochs=2), "linear_probe": lambda: linear_probe(epochs=2), "nearest_class_mean": nearest_class_mean}
found = {}
for name in (*five_runs.METHODS, *baselines):
    folder = Path(sys.argv[1]) / name
    trainer = five_runs.build("sara" if name in baselines else name, folder)
    if name in baselines:
        trainer.method = baselines[name]()
    trainer.fit()
    tensors = {}
    for path in sorted((folder / "adapters").glob("*/adapter_model.safetensors")):
        for key, tensor in sorted(load_file(path).items()):
            content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors[f"{path.parent.name}/{key}"] = hashlib.sha256(content).hexdigest()
    results = json.loads((folder / "results.json").read_text())
    numbers = {key: results.get(key) for key in ("metrics", "accuracy_matrix", "accuracy_matrix_within", "class_accuracy_matrix")}
    found[name] = {"tensors": tensors, "numbers": numbers}
Path(sys.argv[2]).write_text(json.dumps(found))
"""


def checked_out(commit: str | None, folder: Path) -> Path:
    """The files of a commit; None: this checkout as it stands."""
    if commit is None:
        return ROOT
    folder.mkdir()
    files = subprocess.run(["git", "-C", str(ROOT), "archive", commit], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=files, check=True)
    return folder


def outcomes(package: Path, folder: Path) -> dict[str, Any]:
    """By method: digests of the adapters' tensors, and numbers."""
    folder.mkdir()
    paths = os.pathsep.join(map(str, (package, package / "tests", package / "tests" / "training")))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_CL_CACHE": str(folder / "cache")}
    command = [sys.executable, "-c", RUNNER, str(folder), str(folder / "found.json")]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{package}: {done.stderr[-3000:]}")
    return json.loads((folder / "found.json").read_text())


def differences(one: dict[str, Any], two: dict[str, Any], name: str = "") -> list[str]:
    """Dotted names of the numbers that both have and that are not equal."""
    found = []
    for key in one.keys() & two.keys():
        place = f"{name}.{key}" if name else key
        if isinstance(one[key], dict) and isinstance(two[key], dict):
            found += differences(one[key], two[key], place)
        elif one[key] != two[key]:
            found.append(f"{place}: {one[key]} then, {two[key]} now")
    return sorted(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="the older one")
    parser.add_argument("--to", help="the newer one; absent: this checkout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-") as place:
        folder = Path(place)
        packages = checked_out(options.commit, folder / "older"), checked_out(options.to, folder / "newer")
        runs = [outcomes(package, folder / f"runs-{number}") for number, package in enumerate(packages)]
    wrong = 0
    for method, older in runs[0].items():
        newer = runs[1][method]
        names = older["tensors"].keys() | newer["tensors"].keys()
        other = sorted(name for name in names if older["tensors"].get(name) != newer["tensors"].get(name))
        numbers = differences(older["numbers"], newer["numbers"])
        print(f"{method}: {len(names) - len(other)} of {len(names)} tensors equal, {len(numbers)} numbers differ")
        for line in [*other[:SHOWN], *numbers[:SHOWN]]:
            print(f"  {line[:200]}")
        wrong += len(other) + len(numbers)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
