"""Where the runs of a study run: this machine (joblib), a Slurm cluster (submitit), a Ray cluster. None of them is ours."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed

from hf_cl.tuning.job import run_job

Options = Mapping[str, Any]


def local(folder: Path, names: Sequence[str], jobs: int, options: Options) -> None:
    """`jobs` runs at a time on this machine. Several GPUs are dealt out in turn; the cores are shared."""
    if options:
        raise ValueError(f"--engine local knows no option {next(iter(options))!r}.")
    slots: queue.Queue[int] = queue.Queue()
    for slot in range(jobs):
        slots.put(slot)
    gpus = _visible_gpus()
    threads = str(max(1, (os.cpu_count() or 1) // jobs))

    def one(name: str) -> None:
        slot = slots.get()
        device = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        try:
            run_job(str(folder), name, {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), **device})
        finally:
            slots.put(slot)

    # each run is a process of its own, so threads are all that must wait; none is started before its turn, so Ctrl-C starts no more
    Parallel(n_jobs=jobs, backend="threading", pre_dispatch=str(jobs))(delayed(one)(name) for name in names)


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(number) for number in range(torch.cuda.device_count())]


def slurm(folder: Path, names: Sequence[str], jobs: int, options: Options) -> None:
    """Hand all runs to Slurm as one array, `jobs` of them at a time, and return. `options` are submitit's, such as `slurm_partition`.

    The option `cluster=local` is submitit's executor without a cluster, and is waited for.
    """
    try:
        from submitit import AutoExecutor  # noqa: PLC0415 (an extra)  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError("--engine slurm needs submitit: pip install 'hf-cl[slurm]'.") from error
    cluster = options.get("cluster", "slurm")
    executor = AutoExecutor(folder=folder / "slurm" / "%j", cluster=cluster)
    parameters = {key: value for key, value in options.items() if key != "cluster"}
    if cluster == "slurm":
        parameters["slurm_array_parallelism"] = jobs
    executor.update_parameters(**parameters)
    with executor.batch():
        handed = [executor.submit(run_job, str(folder), name) for name in names]
    if cluster == "local":
        for job in handed:
            job.result()


def ray(folder: Path, names: Sequence[str], jobs: int, options: Options) -> None:
    """Run on the Ray cluster that RAY_ADDRESS names, or a Ray of this machine. `options` are those of a task, such as `num_gpus`."""
    try:
        import ray as cluster  # noqa: PLC0415 (an extra)  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ValueError("--engine ray needs Ray: pip install 'hf-cl[ray]'.") from error
    cluster.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    task = cluster.remote(max_retries=0, **options)(run_job)
    waiting, running = list(names), []
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(task.remote(str(folder), waiting.pop(0)))
        ended, running = cluster.wait(running)
        cluster.get(ended)


ENGINES: dict[str, Callable[[Path, Sequence[str], int, Options], None]] = {"local": local, "slurm": slurm, "ray": ray}
"""Name -> (folder of the study, names of its runs, how many at a time, options of the engine); returns when they end, or are queued."""
