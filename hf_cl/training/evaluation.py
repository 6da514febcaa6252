"""Evaluation after a session: every test image once, in full batches over all tests, all restricted accuracies from the same logits.

Counted batch by batch: what is kept of an image is where it was counted, never its logits.

Shapes: B images of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import Session
from hf_cl.metrics import COUNTS, SessionCounts, count_correct
from hf_cl.results.examples import ExamplePicker, write_examples
from hf_cl.training.image_stream import ImageStream


class Scored(NamedTuple):
    """A batch of test images of one or several tests, on the CPU."""

    tests: NDArray[np.int64]  # [B] which test of the session
    positions: NDArray[np.int64]  # [B] in that test's data set
    scores: NDArray[np.float32]  # [B, C]
    labels: NDArray[np.int64]  # [B]


def evaluate_candidates(
    classifier: AnyClassifier, images: ImageStream, session: Session, class_names: Sequence[str], accelerator: Accelerator
) -> tuple[dict[str, float], list[int]]:
    """For tests whose candidates are their own (base-to-novel, other data sets): accuracy by name, and the number of images.

    `class_names` are all that the tests name, by position. Leaves examples in the run folder, as `evaluate_session` does.
    """
    sizes = [len(test.data) for test in session.tests]
    correct, picker = np.zeros(len(sizes), np.int64), ExamplePicker(sizes)
    for batch in scored(classifier, images, session, accelerator):
        for number in np.unique(batch.tests):
            own, candidates = batch.tests == number, session.tests[number].candidates
            scores, labels = batch.scores[own], batch.labels[own]
            correct[number] += count_correct(scores, labels, candidates)
            picker.add(batch.tests[own], scores, labels, batch.positions[own], candidates)
    total = _summed(correct, accelerator)
    _keep_examples(picker, images, session, class_names, [len(session.class_names)], accelerator)
    named = zip(session.tests, total.tolist(), sizes, strict=True)
    return {test.name: right / size for test, right, size in named}, sizes


def evaluate_session(
    classifier: AnyClassifier, images: ImageStream, session: Session, classes_per_session: Sequence[int], accelerator: Accelerator
) -> SessionCounts:
    """Counts over all tests of the session, summed over the processes, each of which sees its share of the images.

    Leaves a few of the images with what the model says in the run folder (`hf_cl.results.examples`).
    """
    counts = SessionCounts(classes_per_session)
    picker = ExamplePicker([len(test.data) for test in session.tests])
    for batch in scored(classifier, images, session, accelerator):
        counts.add(batch.tests, batch.scores, batch.labels)
        picker.add(batch.tests, batch.scores, batch.labels, batch.positions)
    _keep_examples(picker, images, session, session.class_names, classes_per_session, accelerator)
    return _gathered(counts, accelerator)


@torch.no_grad()
def scored(classifier: AnyClassifier, images: ImageStream, session: Session, accelerator: Accelerator) -> Iterator[Scored]:
    """This process's share of all test images of a session with their logits, in eval mode.

    A batch may hold images of several tests. Its logits are those of a forward of each test by itself but for rounding: a matrix product
    rounds by the number of its rows. The device computes one batch while the one before it is counted.
    """
    training = classifier.training
    classifier.eval()
    before: tuple[Any, Tensor] | None = None
    for batch in images.test_batches([test.data for test in session.tests]):
        with accelerator.autocast():
            logits = classifier.outputs(batch.values["pixel_values"]).logits  # [B, C]
        if before is not None:
            yield _on_the_cpu(*before)
        before = batch, logits
    if before is not None:
        yield _on_the_cpu(*before)
    classifier.train(training)


def _on_the_cpu(batch: Any, logits: Tensor) -> Scored:
    return Scored(batch.tests, batch.positions, logits.float().cpu().numpy(), batch.values["labels"].cpu().numpy())


def _summed(values: NDArray[np.int64], accelerator: Accelerator) -> NDArray[np.int64]:
    """Over the processes."""
    mine: Any = torch.from_numpy(values).to(accelerator.device)
    total: Any = accelerator.reduce(mine, reduction="sum")
    return total.cpu().numpy()


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


def _keep_examples(
    picker: ExamplePicker,
    images: ImageStream,
    session: Session,
    class_names: Sequence[str],
    classes_per_session: Sequence[int],
    accelerator: Accelerator,
) -> None:
    picked = accelerator.gather(torch.tensor(picker.rows(), device=accelerator.device))  # [processes * picks, 6]
    if accelerator.is_main_process:
        rows = picked.tolist()  # pyright: ignore[reportAttributeAccessIssue]
        write_examples(Path(images.settings.output_dir), session.tests, class_names, classes_per_session, rows)
