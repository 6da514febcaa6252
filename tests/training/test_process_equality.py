"""Two processes train what one trains, with the same global batch, for all recipes: gradients, parameters, losses, order, evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import equality_case
import pytest
import torch
from safetensors.torch import load_file

CASE = Path(equality_case.__file__)
TESTS = CASE.parents[1]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices, one for each process")],
    ),
]
per_method = pytest.mark.parametrize("method", list(equality_case.METHODS))
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module", params=DEVICES)
def runs(request, tmp_path_factory):
    """Run folders (of one process, of two) by method and dtype. All runs on two processes share one start."""
    device, folder = request.param, tmp_path_factory.mktemp("equality")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(CASE.parent), *sys.path])}
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(CASE),
        str(folder / "two"),
        device,
    ]
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    pairs = [(method, dtype) for method in equality_case.METHODS for dtype in equality_case.DTYPES]
    one = {pair: equality_case.run(folder / "one", device, *pair) for pair in pairs}
    output, _ = started.communicate(timeout=600)
    assert started.returncode == 0, output[-4000:]
    return {pair: (path, folder / "two" / path.name) for pair, path in one.items()}


def largest(tensors):
    return max(float(t.abs().max()) for t in tensors.values())


def difference(one, two):
    assert one and one.keys() == two.keys()
    return max(float((two[name] - tensor).abs().max()) for name, tensor in one.items())


def records(folder, kind):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@per_method
def test_first_gradients(runs, method):
    one, two = (load_file(folder / "gradients.safetensors") for folder in runs[method, "float64"])
    assert all(gradient.dtype == torch.float64 for gradient in one.values())
    assert difference(one, two) <= 1e-10 * largest(one)


@per_method
def test_parameters_after_twenty_steps(runs, method):
    """With the boundary between the sessions among them, uneven last batches and micro-batches."""
    one, two = (load_file(folder / "parameters.safetensors") for folder in runs[method, "float64"])
    assert difference(one, two) <= 1e-8


@per_method
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-6)])
def test_losses(runs, method, dtype, tolerance):
    """As the log has them: in float32 whatever they were computed in."""
    one, two = (records(folder, "train") for folder in runs[method, dtype])
    assert len(one) == len(two) >= (equality_case.STEPS if dtype == "float64" else 12)  # a line a step: one process writes the log
    for ours, theirs in zip(one, two, strict=True):
        numbers = [name for name in ours if name.startswith(("loss_", "learning_rate_"))]
        assert any(name.startswith("loss_") for name in numbers)
        assert [theirs[name] for name in numbers] == pytest.approx([ours[name] for name in numbers], abs=tolerance, rel=tolerance)
        assert all(theirs[name] == ours[name] for name in ours.keys() - {"time", *numbers})


@per_method
def test_order_of_the_samples(runs, method):
    """Each micro-batch is cut over the processes, in its order; so their pieces one after the other are what one process sees."""
    one, two = runs[method, "float64"]
    alone = json.loads((one / "order-0.json").read_text())
    ranks = [json.loads((two / f"order-{rank}.json").read_text()) for rank in range(2)]
    assert alone == [[a + b for a, b in zip(*step, strict=True)] for step in zip(*ranks, strict=True)]
    assert {len(ids) for step in alone for ids in step} >= ({8, 3, 5} if method == "ovor" else {4, 1, 2, 3})


@per_method
def test_evaluation_counts_every_image_once(runs, method):
    one, two = (json.loads((folder / "results.json").read_text()) for folder in runs[method, "float64"])
    assert two["test_counts"] == [8, 8]
    for numbers in ("test_counts", "accuracy_matrix", "accuracy_matrix_within", "class_accuracy_matrix", "metrics"):
        assert one[numbers] == two[numbers]
