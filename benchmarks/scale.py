"""What grows with sessions, classes and images: counts, processor seconds and bytes against what they may be.

One function per row or few, listed in `ROWS`; pictures have a file of their own, `scale_pictures`.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ViTImageProcessor

from benchmarks import ours, scale_pictures
from benchmarks.measure import MIB, Options, Row
from benchmarks.streams import Stream
from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.images import Preprocessor
from hf_cl.methods import nearest_class_mean
from hf_cl.metrics import CalibrationBins, SessionCounts
from hf_cl.results.history import History
from hf_cl.results.report import write_report
from hf_cl.results.results import MethodRecord, ProtocolRecord, Results
from hf_cl.results.table import session_news

PER_CLASS = 5
BATCH = 256


def rows(options: Options) -> Iterator[Row]:
    for make in ROWS:
        yield from make(options)


def bookkeeping(options: Options) -> Iterator[Row]:
    """What a session costs beside training, forwards and the model's own checkpoint, as the mean of the last five; and its page."""
    for sessions, new in ((100, 1), (300, 1), (1000, 1), (1000, 10)):
        with tempfile.TemporaryDirectory() as folder:
            history, seconds = _history(Path(folder), sessions, new)
            name = f"{sessions} sessions, {sessions * new:,} classes"
            yield Row("scale", f"bookkeeping, {name}", "s of processor", float(np.mean(seconds[-5:])), "<= 0.3", "mean of the last five")
            if new == 1:
                record, method = ProtocolRecord(name="class_incremental", dataset="drawn"), MethodRecord("drawn", "drawn")
                results = Results(protocol=record, seed=0, method=method, **history.fields(), times=history.times)
                page = write_report(folder, results, {}, method="drawn")
                yield Row("scale", f"report.html, {name}", "MiB", page.stat().st_size / MIB, "<= 5")


def _history(folder: Path, sessions: int, new: int) -> tuple[History, list[float]]:
    """Counts drawn at random, recorded session by session as a run does it."""
    rng, history, seconds, images = np.random.default_rng(0), History(folder / "sessions.jsonl"), [], PER_CLASS * new
    for t in range(sessions):
        classes, counts = new * (t + 1), SessionCounts([new] * (t + 1))
        labels = np.repeat(np.arange(classes), PER_CLASS)
        predicted = np.where(rng.random(len(labels)) < 0.5, labels, rng.integers(0, classes, len(labels)))
        counts.class_total, counts.total = np.full(classes, PER_CLASS), np.full(t + 1, images)
        counts.class_correct = np.bincount(labels[predicted == labels], minlength=classes)
        correct = counts.class_correct.reshape(t + 1, new).sum(axis=1)
        counts.correct = counts.correct_task_aware = counts.correct_within = correct
        counts.add_pairs(np.stack([labels, predicted, np.ones_like(labels)], axis=1))
        names = [f"class {c}" for c in range(classes - new, classes)]
        costs = {"training_seconds": 0.0, "evaluation_seconds": 0.0, "peak_bytes": 0}
        bins = asdict(CalibrationBins.of(rng.random(len(labels)), predicted == labels))
        record = {"id": t, "new_class_names": names, "num_train": images, "num_test": images, "trained": False, "calibration": bins}
        started = time.process_time()
        history.add(record | costs, counts)
        session_news(history.metrics())
        history.state_dict()
        seconds.append(time.process_time() - started)
    return history, seconds


def counting(options: Options) -> Iterator[Row]:
    """Most memory of an evaluation beside the logits of its batch: 20,000 images of 1,000 and of 10,000 classes."""
    for classes in (1000, 10_000):
        rng, counts, bins = np.random.default_rng(0), SessionCounts([classes // 100] * 100), CalibrationBins()
        scores = rng.standard_normal((BATCH, classes), np.float32)
        tracemalloc.start()
        for first in range(0, 20_000, BATCH):
            labels = np.arange(first, first + BATCH) % classes
            counts.add(labels // (classes // 100), scores, labels)
            bins += CalibrationBins.of(np.full(BATCH, 0.5), scores.argmax(axis=1) == labels)
        pairs, most = len(counts.confusion), tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        yield Row("scale", f"counting, {classes:,} classes", "MiB beyond a batch's logits", most / MIB, "<= 100", f"{pairs} pairs kept")


def one_pass(options: Options) -> Iterator[Row]:
    """A run of class means over ten sessions against one forward of each of its pictures, decoded already."""
    for size in options.sizes:
        ratios = [_whole_run(size, options) for _ in range(max(1, options.repeats // 4))]
        yield Row("scale", f"class means over 10 sessions, {size}", "one forward of every picture", float(np.median(ratios)), "<= 1.15")


def _whole_run(size: str, options: Options) -> float:
    base, processor, stream = ours.vit(size).to(options.device), ViTImageProcessor(), Stream(10, 2, 24, 8)
    data = [part for session in stream for part in (session.train, session.tests[-1].data)]
    pictures = [Preprocessor(processor).geometry([part[i]["image"] for i in range(len(part))]) for part in data]
    whole = _seconds(lambda: _run(base, processor, stream, options), options)
    return whole / _seconds(lambda: _forwards(base.eval(), processor, pictures, options), options)


def _run(base: Any, processor: Any, stream: Stream, options: Options) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(output_dir=folder, cpu=options.device.type == "cpu", augmentation="none", keep_adapters="last")
        ContinualTrainer(base, processor, nearest_class_mean(), stream, settings, quiet=True).fit()


@torch.no_grad()
def _forwards(base: Any, processor: Any, pictures: list[torch.Tensor], options: Options) -> None:
    normalize = Preprocessor(processor).normalize
    for part in pictures:
        base(pixel_values=normalize(part.to(options.device)))


def _seconds(call: Callable[[], None], options: Options) -> float:
    """Processor seconds; on a GPU those of the clock, at the end of which the device is awaited."""
    clock = time.process_time if options.device.type == "cpu" else time.perf_counter
    started = clock()
    call()
    if options.device.type == "cuda":
        torch.cuda.synchronize(options.device)
    return clock() - started


ROWS: list[Callable[[Options], Iterator[Row]]] = [bookkeeping, counting, one_pass, scale_pictures.rows]
