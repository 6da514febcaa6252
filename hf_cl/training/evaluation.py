"""Evaluation after a session: every test image once, one forward each, all restricted accuracies from the same logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import Session
from hf_cl.images import sequential
from hf_cl.metrics import COUNTS, SessionCounts, count_correct
from hf_cl.results.examples import ExamplePicker, write_examples
from hf_cl.training.image_stream import ImageStream


def evaluate_candidates(
    classifier: AnyClassifier, images: ImageStream, session: Session, class_names: Sequence[str], accelerator: Accelerator
) -> tuple[dict[str, float], list[int]]:
    """For tests whose candidates are their own (base-to-novel, other data sets): accuracy by name, and the number of images.

    `class_names` are all that the tests name, by position. Leaves examples in the run folder, as `evaluate_session` does.
    """
    accuracies, totals = {}, []
    picker = ExamplePicker([len(test.data) for test in session.tests])
    for number, test in enumerate(session.tests):
        logits, labels = images.logits(classifier, test.data)
        scores, true = logits.float().cpu().numpy(), labels.cpu().numpy()  # [n, C], [n]
        correct = count_correct(scores, true, test.candidates)
        picker.add(number, scores, true, _positions(images, len(test.data), accelerator), test.candidates)
        mine = torch.tensor([correct, len(labels)], device=accelerator.device)
        correct, total = accelerator.reduce(mine, reduction="sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        accuracies[test.name] = correct / total
        totals.append(total)
    _keep_examples(picker, images, session, class_names, [len(session.class_names)], accelerator)
    return accuracies, totals


def evaluate_session(
    classifier: AnyClassifier, images: ImageStream, session: Session, classes_per_session: Sequence[int], accelerator: Accelerator
) -> SessionCounts:
    """Counts over all tests of the session, summed over the processes, each of which sees its share of the images.

    Leaves a few of the images with what the model says in the run folder (`hf_cl.results.examples`).
    """
    counts = SessionCounts(classes_per_session)
    picker = ExamplePicker([len(test.data) for test in session.tests])
    for number, test in enumerate(session.tests):
        logits, labels = images.logits(classifier, test.data)
        scores, true = logits.float().cpu().numpy(), labels.cpu().numpy()  # [n, C], [n]
        counts.add(number, scores, true)
        picker.add(number, scores, true, _positions(images, len(test.data), accelerator))
    for name in COUNTS:
        mine = torch.from_numpy(getattr(counts, name)).to(accelerator.device)
        setattr(counts, name, accelerator.reduce(mine, reduction="sum").cpu().numpy())  # pyright: ignore[reportAttributeAccessIssue]
    _keep_examples(picker, images, session, session.class_names, classes_per_session, accelerator)
    return counts


def _positions(images: ImageStream, total: int, accelerator: Accelerator) -> list[int]:
    """Positions of the images whose logits this process has, in their order."""
    size, rank, world = images.settings.eval_batch_size, accelerator.process_index, accelerator.num_processes
    return [position for batch in sequential(total, size, rank=rank, world=world) for position in batch]


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
