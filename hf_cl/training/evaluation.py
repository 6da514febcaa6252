"""Evaluation after a session: every test image once, in full batches over all tests, all restricted accuracies from the same logits.

Counted batch by batch: what is kept of an image is where it was counted, never its logits.

Shapes: B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import ImageDataset, Session, domains_of
from hf_cl.metrics import COUNTS, CalibrationBins, SessionCounts, count_correct
from hf_cl.results.examples import FEW, NEAREST, ExamplePicker, Pick, write_examples
from hf_cl.training.image_stream import ImageStream
from hf_cl.training.kept_features import FeatureBatch, KeptFeatures
from hf_cl.training.kept_queries import KeptQueries, told


class Scored(NamedTuple):
    """A batch of test images of one or several tests, on the CPU."""

    tests: NDArray[np.int64]  # [B] which test of the session
    positions: NDArray[np.int64]  # [B] in that test's data set
    scores: NDArray[np.float32]  # [B, C]
    labels: NDArray[np.int64]  # [B]
    nearest: NDArray[np.int64]  # [B, n] the most probable classes, n = min(C, NEAREST)
    probabilities: NDArray[np.float32]  # [B, n] theirs, as the head has them, the largest first


class _OnDevice(NamedTuple):
    """The same before it has arrived on the CPU."""

    tests: NDArray[np.int64]
    positions: NDArray[np.int64]
    logits: Tensor
    labels: Tensor
    nearest: Tensor
    probabilities: Tensor


class Tested(NamedTuple):
    """Accuracy of each test among its own candidates."""

    accuracy: dict[str, float]
    counts: list[int]
    calibration: CalibrationBins


def evaluate_candidates(
    classifier: AnyClassifier,
    images: ImageStream,
    session: Session,
    class_names: Sequence[str],
    accelerator: Accelerator,
    examples: int = FEW,
    queries: KeptQueries | None = None,
) -> Tested:
    """For tests whose candidates are their own (base-to-novel, other data sets): accuracy by name, and the number of images.

    `class_names` are all that the tests name, by position. Leaves `examples` pictures of each kind, as `evaluate_session` does.
    """
    sizes = [len(test.data) for test in session.tests]
    correct, picker, bins = np.zeros(len(sizes), np.int64), ExamplePicker(sizes, examples), CalibrationBins()
    for batch in scored(classifier, images, session, accelerator, queries=queries):
        for number in np.unique(batch.tests):
            own, candidates = batch.tests == number, session.tests[number].candidates
            scores, labels = np.full_like(batch.scores[own], -np.inf), batch.labels[own]
            scores[:, candidates] = batch.scores[own][:, candidates]
            correct[number] += count_correct(scores, labels, candidates)
            nearest, probabilities = (found.numpy() for found in _most_probable(classifier, torch.from_numpy(scores)))
            bins += CalibrationBins.of(probabilities[:, 0], scores.argmax(axis=1) == labels)
            picker.add(batch.tests[own], scores, labels, batch.positions[own], nearest, probabilities)
    total = _summed(correct, accelerator)
    _keep_examples(picker, images, session, class_names, [len(session.class_names)], accelerator)
    named = zip(session.tests, total.tolist(), sizes, strict=True)
    return Tested({test.name: right / size for test, right, size in named}, sizes, _all_bins(bins, accelerator))


def evaluate_session(
    classifier: AnyClassifier,
    images: ImageStream,
    session: Session,
    classes_per_session: Sequence[int],
    accelerator: Accelerator,
    kept: KeptFeatures | None = None,
    examples: int = FEW,
    queries: KeptQueries | None = None,
) -> tuple[SessionCounts, CalibrationBins]:
    """Counts over all tests of the session, summed over the processes, each of which sees its share of the images.

    With `kept`, of images whose features it has the head alone runs: for a session before which nothing before the head has changed.
    With `queries`, an adapter that chooses by the untouched tower asks it once per image and run.
    Leaves `examples` images of each kind with what the model says in the run folder (`hf_cl.results.examples`).
    """
    counts, bins = SessionCounts(classes_per_session, [test.own for test in session.tests]), CalibrationBins()
    picker = ExamplePicker([len(test.data) for test in session.tests], examples)
    for batch in scored(classifier, images, session, accelerator, kept, queries):
        counts.add(batch.tests, batch.scores, batch.labels)
        bins += CalibrationBins.of(batch.probabilities[:, 0], batch.scores.argmax(axis=1) == batch.labels)
        picker.add(batch.tests, batch.scores, batch.labels, batch.positions, batch.nearest, batch.probabilities)
    _keep_examples(picker, images, session, session.class_names, classes_per_session, accelerator)
    return _gathered(counts, accelerator), _all_bins(bins, accelerator)


@torch.no_grad()
def scored(
    classifier: AnyClassifier,
    images: ImageStream,
    session: Session,
    accelerator: Accelerator,
    kept: KeptFeatures | None = None,
    queries: KeptQueries | None = None,
) -> Iterator[Scored]:
    """This process's share of all test images of a session with their logits, in eval mode.

    A batch may hold images of several tests. Its logits are those of a forward of each test by itself but for rounding: a matrix product
    rounds by the number of its rows. The device computes one batch while the one before it is counted.
    """
    training = classifier.training
    classifier.eval()
    datasets = [test.data for test in session.tests]
    before: _OnDevice | None = None
    found = (
        _forwards(classifier, images, datasets, accelerator, queries)
        if kept is None
        else _heads(classifier, kept.batches(classifier, datasets, queries), accelerator)
    )
    for batch in found:
        if before is not None:
            yield _on_the_cpu(before)
        before = batch
    if before is not None:
        yield _on_the_cpu(before)
    classifier.train(training)


def _forwards(
    classifier: AnyClassifier,
    images: ImageStream,
    datasets: Sequence[ImageDataset],
    accelerator: Accelerator,
    queries: KeptQueries | None,
) -> Iterator[_OnDevice]:
    with told(queries, datasets) as tell:
        for batch in images.test_batches(datasets):
            if tell is not None:
                tell(batch.values["pixel_values"], batch.positions, batch.tests)
            with accelerator.autocast():
                logits = classifier.outputs(batch.values["pixel_values"]).logits  # [B, C]
            yield _OnDevice(batch.tests, batch.positions, logits, batch.values["labels"], *_most_probable(classifier, logits))


def _heads(classifier: AnyClassifier, batches: Iterator[FeatureBatch], accelerator: Accelerator) -> Iterator[_OnDevice]:
    for batch in batches:
        with accelerator.autocast():
            logits = classifier.logits_of(batch.features)  # [B, C]
        yield _OnDevice(batch.tests, batch.positions, logits, batch.labels, *_most_probable(classifier, logits))


def _most_probable(classifier: AnyClassifier, logits: Tensor) -> tuple[Tensor, Tensor]:
    """[B, n] the most probable classes of each image, and their probabilities, as the head has them."""
    values, classes = classifier.head.probabilities(logits.float()).topk(min(NEAREST, logits.shape[-1]))
    return classes, values


def _on_the_cpu(batch: _OnDevice) -> Scored:
    arrived = (tensor.cpu().numpy() for tensor in (batch.logits.float(), batch.labels, batch.nearest, batch.probabilities))
    return Scored(batch.tests, batch.positions, *arrived)


def _summed(values: NDArray[np.int64], accelerator: Accelerator) -> NDArray[np.int64]:
    """Over the processes."""
    mine: Any = torch.from_numpy(values).to(accelerator.device)
    total: Any = accelerator.reduce(mine, reduction="sum")
    return total.cpu().numpy()


def _all_bins(bins: CalibrationBins, accelerator: Accelerator) -> CalibrationBins:
    """Of all processes."""
    return CalibrationBins.from_array(_summed(bins.array(), accelerator))


def _gathered(counts: SessionCounts, accelerator: Accelerator) -> SessionCounts:
    """The counts of all processes: arrays in one sum, pairs side by side."""
    if accelerator.num_processes == 1:
        return counts
    whole, arrays = SessionCounts(counts.classes_per_session), [getattr(counts, name) for name in COUNTS]
    summed = np.split(_summed(np.concatenate(arrays), accelerator), np.cumsum([len(array) for array in arrays])[:-1])
    for name, values in zip(COUNTS, summed, strict=True):
        setattr(whole, name, values)
    mine = torch.from_numpy(counts.confusion).to(accelerator.device)  # [k, 3], k of this process
    padded: Any = accelerator.pad_across_processes(mine, dim=0, pad_index=-1)
    pairs: Any = accelerator.gather(padded)  # [processes * most k, 3]
    whole.add_pairs(pairs[pairs[:, 0] >= 0].cpu().numpy())
    return whole


def _domain_of(session: Session, pick: Pick) -> str | None:
    """The name of a test image's domain, where the data know it."""
    numbers = domains_of(session.tests[pick.test].data)
    return session.domain_names[int(numbers[pick.position])] if numbers is not None and session.domain_names else None


def _keep_examples(
    picker: ExamplePicker,
    images: ImageStream,
    session: Session,
    class_names: Sequence[str],
    classes_per_session: Sequence[int],
    accelerator: Accelerator,
) -> None:
    picked = accelerator.gather(torch.tensor(picker.rows(), device=accelerator.device))  # [processes * picks, 10]
    if accelerator.is_main_process:
        rows = picked.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        write_examples(
            Path(images.settings.output_dir),
            session.tests,
            class_names,
            classes_per_session,
            rows,
            picker.count,
            partial(_domain_of, session),
        )
