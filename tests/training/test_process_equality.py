"""Two processes train what one trains, with the same global batch, for all recipes: gradients, parameters, losses, order, evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import equality_case
import pytest
import torch
from processes import run
from safetensors.torch import load_file

CASE = Path(equality_case.__file__)
TWO_GPUS = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for each process"),
]


def run_both(folder: Path, device: str, dtype: str) -> dict[str, tuple[Path, Path]]:
    """Run folders (of one process, of two) by method. All runs on two processes share one start."""
    done = run(CASE, folder / "two", device, dtype, processes=2, timeout=600)
    assert done.status == 0, done.output[-4000:]
    one = {method: equality_case.run(folder / "one", device, method, dtype) for method in equality_case.METHODS}
    return {method: (path, folder / "two" / path.name) for method, path in one.items()}


def tensors(name: str, one: Path, two: Path) -> tuple[float, float]:
    """Largest difference and largest value of a file of tensors."""
    ours, theirs = load_file(one / name), load_file(two / name)
    assert ours and ours.keys() == theirs.keys()
    assert all(tensor.dtype == torch.float64 for tensor in ours.values())
    difference = max(float((theirs[name] - tensor).abs().max()) for name, tensor in ours.items())
    return difference, max(float(tensor.abs().max()) for tensor in ours.values())


def losses(one: Path, two: Path) -> tuple[int, float]:
    """Steps in the log, a line each, and the largest relative difference of a loss; everything else in it is equal."""
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, two)]
    ours, theirs = ([record for record in log if record["kind"] == "train"] for log in logs)
    assert len(logs[0]) == len(logs[1]) and len(ours) == len(theirs), "more than one process wrote the log"
    differences = []
    for mine, other in zip(ours, theirs, strict=True):
        names = [name for name in mine if name.startswith("loss_")]
        differences += [abs(other[name] - mine[name]) / max(1.0, abs(mine[name])) for name in names]
        assert names and all(other[name] == mine[name] for name in mine.keys() - {"time", *names})
    return len(ours), max(differences)


def check_order(method: str, one: Path, two: Path) -> None:
    """Each micro-batch is cut over the processes in its order, so their pieces one after the other are what one process sees."""
    alone = json.loads((one / "order-0.json").read_text())
    ranks = [json.loads((two / f"order-{rank}.json").read_text()) for rank in range(2)]
    assert alone == [[a + b for a, b in zip(*step, strict=True)] for step in zip(*ranks, strict=True)]
    sizes = {len(ids) for step in alone for ids in step}
    assert sizes == ({8, 3, 5} if method == "ovor" else {4, 1, 2, 3})  # uneven last batches, cut into micro-batches and shares


def check_evaluation(one: Path, two: Path) -> None:
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, two))
    assert theirs["test_counts"] == [8, 8]  # batches of 5: the second is uneven
    for numbers in ("test_counts", "accuracy_matrix", "accuracy_matrix_within", "class_accuracy_matrix", "metrics"):
        assert ours[numbers] == theirs[numbers]


DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=TWO_GPUS)])


@pytest.mark.distributed
@DEVICES
def test_two_processes_train_what_one_trains(device, tmp_path):
    """One test, so that the runs are made once however the suite is spread over workers."""
    for method, (one, two) in run_both(tmp_path, device, "float64").items():
        difference, largest = tensors("gradients.safetensors", one, two)
        assert difference <= 1e-10 * largest and largest > 0, f"{method}: gradients of the first step differ by {difference}"
        difference, _ = tensors("parameters.safetensors", one, two)
        assert difference <= 1e-8, f"{method}: parameters differ by {difference} after 20 steps"
        assert any("projector" in name for name in load_file(two / "gradients.safetensors")) == (method == "coact")
        steps, difference = losses(one, two)
        assert steps >= equality_case.STEPS and difference <= 1e-6, f"{method}: losses differ by {difference} (the log is in float32)"
        check_order(method, one, two)
        check_evaluation(one, two)


@pytest.mark.slow
@pytest.mark.distributed
@DEVICES
def test_in_single_precision_their_losses_stay_together(device, tmp_path):
    for method, (one, two) in run_both(tmp_path, device, "float32").items():
        steps, difference = losses(one, two)
        assert steps == 12 and difference <= 1e-4, f"{method}: losses differ by {difference} in float32"
