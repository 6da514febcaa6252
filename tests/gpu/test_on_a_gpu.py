"""What only a real device shows: precision, compilation, its own synchronisation, bytes after a resume, memory.

The runs are those of `tests/device`. `HF_CL_GPU_TESTS_ON_CPU=1` rehearses all of it on a CPU.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext, suppress

import numpy as np
import pytest
import torch
from device_runs import RUNS, Kill, Run, _Killed, build
from PIL import Image

from hf_cl.contracts import Probe
from hf_cl.training.step import Stepper

REHEARSAL = os.environ.get("HF_CL_GPU_TESTS_ON_CPU") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (REHEARSAL or torch.cuda.is_available()), reason="needs a CUDA device"),
]
WAYS = {
    "fp32": {},
    "bf16": {"mixed_precision": "bf16"},
    "fp16": {"mixed_precision": "fp16"},
    "compiled": {"compile": True},
}
FEW = ["lora, linear head", "coact"]
"""What a rehearsal runs; their tests are named so."""
METHODS = ["lora, linear head", "ovor", "coact", "sara", "glad, rule glad", "cpe_clip, clip"]
"""A run of each method; what takes long is done with these alone."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


def rehearsed(cases):
    """Parameters from tuples that begin with the name of a run."""
    return [pytest.param(*case, id=f"{'-'.join(case)}{' (rehearsed)' if case[0] in FEW else ''}") for case in cases]


@contextmanager
def waits_are_errors(run: Run, monkeypatch):
    """CUDA's own word for it, in steps of the runs that may not wait at all."""
    original = Stepper.step

    def step(self, *args, **kwargs):
        if REHEARSAL or run.waits or self.accelerator.scaler is not None:  # fp16's scaler reads whether it may step
            return original(self, *args, **kwargs)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return original(self, *args, **kwargs)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "step", step)
        yield


class Losses(Probe):
    name = "losses"

    def after_step(self, trainer):
        assert all(p.isfinite().all() for _, p in trainer.named_parameters)


@pytest.mark.parametrize(("name", "way"), rehearsed((name, way) for name in RUNS for way in WAYS if way != "compiled" or name in METHODS))
def test_steps_and_a_resumed_session(name, way, tmp_path, folder, monkeypatch):
    if REHEARSAL and way in ("fp16", "compiled"):
        pytest.skip("fp16 has no scaler on a CPU, and compiling takes minutes there")
    run = RUNS[name]
    for dies in (1, -1):
        probes = [Kill(dies), Losses()]
        settings = {"cpu": REHEARSAL, "checkpoint_steps": 1, "resume": "auto", **WAYS[way]}
        trainer = build(run, tmp_path, folder, probes=probes, **settings)
        quiet = waits_are_errors(run, monkeypatch) if way != "compiled" else nullcontext()  # compiling waits, once
        with quiet, suppress(_Killed):
            trainer.fit()
    assert (tmp_path / "adapters/session-1/adapter_model.safetensors").exists()


@pytest.mark.parametrize("name", rehearsed((name,) for name in METHODS))
def test_deterministic_runs_end_with_the_same_bytes_after_a_resume(name, tmp_path, folder, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    run, settings = RUNS[name], {"cpu": REHEARSAL, "deterministic": True, "checkpoint_steps": 1}
    build(run, tmp_path / "whole", folder, probes=[Kill(-1)], **settings).fit()
    with suppress(_Killed):
        build(run, tmp_path / "killed", folder, probes=[Kill(1)], **settings).fit()
    build(run, tmp_path / "killed", folder, probes=[Kill(-1)], resume="auto", **settings).fit()
    for session in (0, 1):
        file = f"adapters/session-{session}/adapter_model.safetensors"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_a_panorama_and_a_page_in_one_batch_rehearsed(tmp_path, folder, monkeypatch):
    """Padded to one size, the two and their augmentation would take gigabytes."""
    from stream import Images

    sizes = iter([(8000, 200), (200, 8000)] * 1000)

    def odd(self, position):
        image = Image.fromarray(np.full((*next(sizes)[::-1], 3), position % 256, dtype=np.uint8))
        return {"image": image, "label": int(self.labels[position]), "index": int(self.indices[position])}

    monkeypatch.setattr(Images, "__getitem__", odd)
    trainer = build(RUNS["lora, linear head"], tmp_path, folder, sessions=1, cpu=REHEARSAL, augmentation="strong")
    if not REHEARSAL:
        torch.cuda.reset_peak_memory_stats()
    trainer.fit()
    if not REHEARSAL:
        assert torch.cuda.max_memory_allocated() < 512 << 20
