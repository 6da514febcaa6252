"""Evaluation after a session: every test image once, one forward each, all restricted accuracies from the same logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from hf_cl.backbones import AnyClassifier
from hf_cl.contracts import Session
from hf_cl.metrics import SessionCounts, count_correct
from hf_cl.training.image_stream import ImageStream


def evaluate_candidates(
    classifier: AnyClassifier, images: ImageStream, session: Session, accelerator: Accelerator
) -> tuple[dict[str, float], list[int]]:
    """For tests whose candidates are their own (base-to-novel, other data sets): accuracy by name, and the number of images."""
    accuracies, totals = {}, []
    for test in session.tests:
        logits, labels = images.logits(classifier, test.data)
        correct = count_correct(logits.float().cpu().numpy(), labels.cpu().numpy(), test.candidates)
        mine = torch.tensor([correct, len(labels)], device=accelerator.device)
        correct, total = accelerator.reduce(mine, reduction="sum").tolist()  # pyright: ignore[reportAttributeAccessIssue]
        accuracies[test.name] = correct / total
        totals.append(total)
    return accuracies, totals


_COUNTS = ("total", "correct", "correct_task_aware", "correct_within", "class_total", "class_correct")


def evaluate_session(
    classifier: AnyClassifier, images: ImageStream, session: Session, classes_per_session: Sequence[int], accelerator: Accelerator
) -> SessionCounts:
    """Counts over all tests of the session, summed over the processes, each of which sees its share of the images."""
    counts = SessionCounts(classes_per_session)
    for number, test in enumerate(session.tests):
        logits, labels = images.logits(classifier, test.data)
        counts.add(number, logits.float().cpu().numpy(), labels.cpu().numpy())
    for name in _COUNTS:
        mine = torch.from_numpy(getattr(counts, name)).to(accelerator.device)
        setattr(counts, name, accelerator.reduce(mine, reduction="sum").cpu().numpy())  # pyright: ignore[reportAttributeAccessIssue]
    return counts
