"""Several runs in one process: each has the precision, compilation and device that it was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import is_compiled_module
from loop_case import build
from torch import nn

from hf_cl.settings import TrainingSettings
from hf_cl.training.accelerator import RunAccelerator, leave_group


def dtypes_of(trainer) -> list[torch.dtype]:
    """Will be filled by `fit` with what the first linear layer puts out while training."""
    seen = []
    trainer.backbone.vit.layers[0].mlp.fc1.register_forward_hook(lambda module, _, out: seen.append((module.training, out.dtype)))
    return seen


def of_training(seen) -> set[torch.dtype]:
    return {dtype for training, dtype in seen if training}


def is_compiled(accelerator: RunAccelerator) -> bool:
    with accelerator.current():
        return is_compiled_module(accelerator.prepare(nn.Linear(2, 2)))


def test_runs_after_each_other_have_their_own_precision(tmp_path):
    for number, precision in enumerate((None, "bf16", None)):
        trainer = build(tmp_path / str(number), mixed_precision=precision, sessions=1)
        seen = dtypes_of(trainer)
        results = trainer.fit()
        assert of_training(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert results.environment["mixed_precision"] == (precision or "no")
        assert yaml.safe_load((tmp_path / str(number) / "config.yaml").read_text())["mixed_precision"] == (precision or "no")


def test_runs_that_are_made_first_and_trained_later_have_their_own_precision(tmp_path):
    half, full = (build(tmp_path / name, mixed_precision=name, sessions=1) for name in ("bf16", "no"))
    seen = {trainer: dtypes_of(trainer) for trainer in (half, full)}
    half.fit()
    full.fit()
    assert of_training(seen[half]) == {torch.bfloat16} and of_training(seen[full]) == {torch.float32}
    for trainer, dtype in ((half, torch.bfloat16), (full, torch.float32)):  # a service that is used after the run
        seen[trainer].clear()
        trainer.features_of(trainer.session.tests[0].data)
        assert {found for _, found in seen[trainer]} == {dtype}


def test_a_plain_run_after_a_compiled_one_is_plain(monkeypatch, tmp_path):
    settings = TrainingSettings(output_dir=str(tmp_path), cpu=True)
    compiled = RunAccelerator(TrainingSettings(output_dir=str(tmp_path), cpu=True, compile=True))
    plain = RunAccelerator(settings)
    assert not is_compiled(compiled) and not is_compiled(plain)  # what is asked for is done by compile_backbone, without the head
    assert (compiled.compiled_by, plain.compiled_by) == ("inductor", "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")  # as `accelerate launch --dynamo_backend eager` sets it
    launched, asked = RunAccelerator(settings), RunAccelerator(TrainingSettings(output_dir=str(tmp_path), cpu=True, compile=False))
    assert (launched.compiled_by, asked.compiled_by) == ("eager", "no")
    assert not is_compiled(launched) and not is_compiled(asked)


def test_what_a_launch_said_stands_in_config_and_results(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    trainer = build(tmp_path, sessions=1)
    with trainer.accelerator.current():
        trainer.accelerator.state.dynamo_plugin.disable = True  # what compiling does is not asked here
    results = trainer.fit()
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (config["mixed_precision"], config["compile"]) == ("bf16", True)
    assert (results.environment["mixed_precision"], results.environment["compile"]) == ("bf16", "eager")
    assert json.loads((tmp_path / "results.json").read_text())["environment"]["compile"] == "eager"


def test_an_accelerator_of_the_users_own_stays_as_it_is(tmp_path):
    AcceleratorState._reset_state(reset_partial_state=True)  # as in a fresh notebook
    own = Accelerator(cpu=True, mixed_precision="bf16")
    build(tmp_path, mixed_precision="no", sessions=1).fit()
    assert own.mixed_precision == "bf16" and AcceleratorState().mixed_precision == "bf16"
    with own.autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_launcher_that_accumulates_changes_no_gradient(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    weight = nn.Parameter(torch.ones(1))
    accelerator = RunAccelerator(TrainingSettings(output_dir=str(tmp_path), cpu=True))
    with accelerator.current():
        accelerator.backward(3 * weight.sum())
    assert weight.grad is not None and weight.grad.item() == 3.0


def test_fp16_on_a_cpu_is_refused(tmp_path):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        build(tmp_path, mixed_precision="fp16")


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "3"}, "3 processes were asked for and 1 came up"),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, "two_cpu_processes.yaml"),
    ],
)
def test_fewer_processes_than_were_asked_for_are_refused(variables, words, monkeypatch, tmp_path):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    accelerator = RunAccelerator(TrainingSettings(output_dir=str(tmp_path), cpu=True))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=words):
        accelerator._check()


def threads_of_gloo() -> int:
    return sum("gloo" in (task / "comm").read_text() for task in Path("/proc/self/task").iterdir())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them")
def test_no_thread_of_the_process_group_outlives_it():
    """One that lets go of a tensor while Python ends aborts the process. A wrapper of DDP in a cycle keeps a group that was destroyed."""
    assert threads_of_gloo() == 0
    dist.init_process_group(backend="gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    wrapped.itself = [wrapped]
    wrapped(torch.ones(1, 2)).sum().backward()
    assert threads_of_gloo() > 0
    del wrapped
    leave_group()
    assert threads_of_gloo() == 0 and not dist.is_initialized()
