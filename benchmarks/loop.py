"""The loop around the steps: features that are computed once, sessions that must not grow dearer, checkpoints, two processes."""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from benchmarks import ours
from benchmarks.measure import MIB, Options, Row, now, paired, resident_bytes
from benchmarks.streams import Stream
from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Method, Part, Phase
from hf_cl.methods import linear_probe, ovor
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.run_state import RunState
from hf_cl.training.step import Stepper

SESSIONS, WIDTH = 100, 96


def rows(options: Options) -> Iterator[Row]:
    yield _cached_features(options)
    yield from _last_step(options)
    yield from _sessions(options)
    yield _checkpoints(options)
    if options.device.type == "cpu":
        yield _two_processes()


def _run(folder: str, method: Method, stream: Stream, options: Options, base: Any = None, **settings: Any) -> ContinualTrainer:
    values = {"batch_size": ours.BATCH["tiny"], "augmentation": "none", "cpu": options.device.type == "cpu", "num_workers": 1, **settings}
    ours.accelerator(options.device)
    side = stream.side
    processor = ViTImageProcessor(size={"height": side, "width": side})
    trainer = ContinualTrainer(
        ours.vit() if base is None else base, processor, method, stream, TrainingSettings(folder, **values), quiet=True
    )
    trainer.fit()
    return trainer


def _wrapped(owner: Any, name: str, options: Options, times: list[float]) -> Callable[[], None]:
    """Time every call of `owner.name`; returns how to put the original back."""
    original = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = now(options.device)
        out = original(*args, **kwargs)
        times.append(now(options.device) - started)
        return out

    setattr(owner, name, timed)
    return lambda: setattr(owner, name, original)


def _cached_features(options: Options) -> Row:
    """Ten epochs of a head on features: the backbone is run once, or in each epoch."""
    epochs, images = 10, 4 * ours.BATCH["tiny"]

    def seconds_of(refresh: str) -> float:
        method = linear_probe(epochs=epochs)
        plain = method.phases
        refreshed = lambda session: [Phase(**{**vars(phase), "refresh": refresh}) for phase in plain(session)]  # noqa: E731
        method = Method(**{**vars(method), "phases": refreshed})
        times: list[float] = []
        restore = _wrapped(ImageStream, "features", options, times)
        try:
            with tempfile.TemporaryDirectory() as folder:
                _run(folder, method, Stream(1, 2, images, 2), options)
        finally:
            restore()
        return sum(times)

    once, each = seconds_of("phase"), seconds_of("epoch")
    detail = f"{1e3 * once:.0f} against {1e3 * each:.0f} ms for {epochs} epochs of {images} images"
    return Row("loop", "features of a phase, passes they cost", "a pass per epoch", epochs * once / each, "<= 1.1", detail)


class _Sizes(Part):
    """What the run holds and writes at the end of each session."""

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.checkpoint = 0

    def begin_session(self, trainer: Any, session: Any) -> None:
        if session.id == 1:
            folder = max((trainer.folder / "checkpoints").glob("step-*"))
            self.checkpoint = sum(f.stat().st_size for f in folder.glob("*.safetensors"))

    def end_session(self, trainer: Any, session: Any) -> None:
        gc.collect()
        self.bytes.append(resident_bytes([o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]))


def _sessions(options: Options) -> Iterator[Row]:
    """A run of a hundred sessions of two classes on a ViT with two layers, where everything but the model's arithmetic weighs most."""
    sizes, calls, eval_calls = _Sizes(), [], []
    method = ovor(epochs=1, vor_epochs=0)
    method = Method(**{**vars(method), "parts": [sizes]})
    torch.manual_seed(0)
    base = ViTForImageClassification(
        ViTConfig(hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=3, intermediate_size=4 * WIDTH, image_size=32, num_labels=0)
    )
    method.adapter.layer_tokens, method.adapter.layers_to_transform = {0: 5, 1: 5}, [0, 1]
    restores = [_counted(Stepper, "step", calls), _counted(ImageStream, "logits", eval_calls)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(folder, method, Stream(SESSIONS, 2, 16, 8, side=32), options, base, batch_size=8)
            run = Path(folder)
            adapters = [(run / f"adapters/session-{i}/adapter_model.safetensors").stat().st_size for i in (0, SESSIONS - 1)]
            last = max((run / "checkpoints").glob("step-*"))
            results, state = (sum(f.stat().st_size for f in last.glob(f"*{end}")) for end in (".json", ".safetensors"))
    finally:
        for restore in restores:
            restore()
    rows = 4 * (WIDTH + 1) * 2 * (SESSIONS - 1)
    yield _growth("Python calls of a step", calls[1], calls[-1], "of all functions, while a step runs", 1, "calls")
    yield _growth(
        "Python calls of an evaluation's pass",
        eval_calls[1],
        eval_calls[-2],
        "over eight images of a test that has been decoded before",
        1,
        "calls",
    )
    detail = f"head rows and Adam's state of them, {3 * rows / MIB:.2f} MiB, taken off"
    yield _growth("tensors in memory", sizes.bytes[0], sizes.bytes[-1] - 3 * rows, detail, MIB, "MiB")
    yield _growth("adapter's tensors on disk", adapters[0], adapters[1] - rows, f"head rows, {rows / 1024:.0f} KiB, taken off", 1024, "KiB")
    detail = f"head rows taken off; beside them {results / 1024:.0f} KiB of results: three matrices of a hundred rows"
    yield _growth("checkpoint's tensors on disk", sizes.checkpoint, state - rows, detail, 1024, "KiB")


def _last_step(options: Options) -> Iterator[Row]:
    """Step and evaluation with the head of session 100 and with that of session 1, on ViT-Ti."""
    few, many = (_with_classes(classes, options) for classes in (2, 2 * SESSIONS))
    for name, first, last in (("step", few[0], many[0]), ("evaluation of a batch", few[1], many[1])):
        pair = paired(first, last, options)
        yield Row(
            "sessions", f"{name} at session {SESSIONS}", "session 1", pair.speed, "<= 1.05", f"{2 * SESSIONS} classes, 2", pair.spread
        )


def _with_classes(classes: int, options: Options) -> tuple[Callable[[], Any], Callable[[], Any]]:
    names, count = tuple(f"c{i}" for i in range(classes)), ours.BATCH["tiny"]
    mine = ours.OurStep(ours.vit(), ovor(epochs=1, vor_epochs=0), ours.session(1, names, 2), ours.accelerator(options.device))
    images = ours.images(count, options.device)
    batch = mine.batch(images, labels=torch.full((count,), classes - 1, device=options.device))

    @torch.no_grad()
    def evaluation() -> None:
        mine.classifier.outputs(images)

    return lambda: mine(batch), evaluation


def _counted(owner: Any, name: str, counts: list[int]) -> Callable[[], None]:
    """Count the Python functions that are called while `owner.name` runs."""
    original = getattr(owner, name)

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls = 0

        def seen(frame: Any, event: str, argument: Any) -> None:
            nonlocal calls
            calls += event == "call"

        sys.setprofile(seen)
        try:
            return original(*args, **kwargs)
        finally:
            sys.setprofile(None)
            counts.append(calls)

    setattr(owner, name, counted)
    return lambda: setattr(owner, name, original)


def _growth(what: str, first: float, last: float, detail: str, unit: float = 1e-3, name: str = "ms") -> Row:
    return Row(
        "sessions",
        f"{what} at session {SESSIONS}",
        "session 1",
        last / first,
        "<= 1.05",
        f"{last / unit:.2f} against {first / unit:.2f} {name}; {detail}",
    )


def _checkpoints(options: Options) -> Row:
    """A run on ViT-Ti with a checkpoint per session, as it is by default: all of its time over the time outside of `save`."""
    saving, running = [], []
    restores = [_wrapped(RunState, "save", options, saving), _wrapped(ContinualTrainer, "fit", options, running)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            _run(folder, ovor(epochs=1, vor_epochs=0), Stream(2, 2, 6 * ours.BATCH["tiny"], 4), options)
    finally:
        for restore in restores:
            restore()
    detail = f"{1e3 * statistics.mean(saving):.1f} ms each, every {running[0] / len(saving):.1f} s"
    return Row("loop", "run with checkpoints", "without", running[0] / (running[0] - sum(saving)), "<= 1.01", detail)


def _two_processes() -> Row:
    """Seconds by the wall clock, since two processes are compared with one; both sides have two threads."""
    times: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for processes, measured in times.items():
            measured.append(_launched(processes, threads=2 // processes))
    one, two = min(times[1]), min(times[2])
    detail = f"{1e3 * two:.0f} against {1e3 * one:.0f} ms a step, best of two runs each; {os.cpu_count()} cores"
    return Row("loop", "2 processes, images per second", "1 process, as many threads", one / two, ">= 0.9", detail)


def _launched(processes: int, threads: int) -> float:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONWARNINGS": "ignore"}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *launcher, "-m", "benchmarks.one_process", folder]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])
