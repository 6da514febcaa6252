"""Run folders to compare, made up."""

import yaml
from example_results import example_results

from hf_cl.results.results import MethodRecord

SETTINGS = {
    "output_dir": "/home/someone/runs/x",
    "backbone": "demo",
    "seed": 0,
    "num_workers": 2,
    "dataset": "animals",
    "learning_rate": 0.01,
    "head": {"type": "linear"},
}


def matrix_with(final):
    """The worked example, with another accuracy on the last test."""
    return [[0.90], [0.80, 0.70], [0.60, 0.75, final]]


def write_run(folder, *, method="ovor", seed=0, final=0.5, settings=None, **changes):
    """A run folder with results.json and config.yaml."""
    folder.mkdir(parents=True)
    matrix = matrix_with(final)
    results = example_results(
        method=None if method is None else MethodRecord(method, method.upper()), seed=seed, accuracy_matrix=matrix, **changes
    )
    results.save(folder / "results.json")
    (folder / "config.yaml").write_text(yaml.safe_dump(SETTINGS | {"seed": seed, "output_dir": str(folder)} | (settings or {})))
    return folder


def two_methods(folder):
    """Three seeds of one method, one of another."""
    runs = [write_run(folder / f"a{seed}", seed=seed, final=final) for seed, final in enumerate([0.4, 0.5, 0.6])]
    return [*runs, write_run(folder / "b", method="lora", seed=0, final=0.2)]
