"""What heads share that are fitted to statistics at the end of a session.

Shapes: n images, D feature width.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl.contracts import FeatureSet, Head, Session, Trainer
from hf_cl.hints import nearest


def learned(head: Head, session: Session, labels: Tensor, *, final: bool = False) -> Tensor:
    """[n] bool, by `labels` [n]: which of a session's images the head is fitted to.

    All, those of classes that came before too: they join what is known of their class. Of a head that can learn no more of a class
    (`new_classes_only`), and where the statistics of one are `final`, those of the session's own classes alone.
    """
    return labels >= (session.own.start if head.new_classes_only or final else 0)


def own_rows(trainer: Trainer, session: Session) -> tuple[Tensor, Tensor, Tensor]:
    """Features [n, D] float64 (as the head embeds them), labels [n] and sample ids [n] of the session's training images, on the CPU: of
    those that the head learns (`learned`), and without what a memory has of earlier sessions.

    Raises ValueError for a new class without an image.
    """
    data: FeatureSet = trainer.features_of(session.train)
    labels = data.labels.cpu()
    mine = learned(trainer.head, session, labels)
    present = set(labels[mine].tolist())
    empty = [name for label, name in enumerate(session.class_names) if label >= session.first_new_class and label not in present]
    if empty:
        raise ValueError(f"Session {session.id} has no image of {', '.join(empty)}: a fitted head needs one of each class.")
    with torch.no_grad():
        embedded = trainer.head.embed(data.features).cpu().double()
    return embedded[mine], labels[mine], data.index.cpu()[mine]


@torch.no_grad()
def copy_same_shapes(head: nn.Module, other: nn.Module) -> None:
    """Values of another head of the same kind with more or fewer classes, where shapes do not count them."""
    theirs = dict(other.named_buffers()) | dict(other.named_parameters())
    for name, tensor in (*head.named_buffers(), *head.named_parameters()):
        if tensor.shape == theirs[name].shape:
            tensor.copy_(theirs[name])


def as_on_rank_0(tensors: Iterable[Tensor]) -> None:
    """Overwrite fitted tensors with those of the first process: a solver may round differently on another host."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        for tensor in tensors:
            torch.distributed.broadcast(tensor, 0)


def check_settings(owner: str, made: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that `made` has no keyword argument for."""
    known = [name for name, p in inspect.signature(made).parameters.items() if p.kind is p.KEYWORD_ONLY and name not in ("device", "dtype")]
    for name in settings:
        if name not in known:
            raise ValueError(f"{owner} has no setting {name!r}; it has {', '.join(known)}.{nearest(name, known)}")


def check_bool(owner: str, **values: Any) -> None:
    """Raise ValueError for a setting that is neither true nor false."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{owner}: {name} must be true or false, got {value!r}.")


def check_number(owner: str, name: str, value: Any, low: float, high: float, words: str) -> None:
    """Raise ValueError unless `value` is a number of [low, high); `words` say what is allowed."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < high:
        raise ValueError(f"{owner}: {name} is {words}, got {value!r}.")


def check_count(owner: str, name: str, value: Any, low: int, high: int) -> None:
    """Raise ValueError unless `value` is a whole number of [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{owner}: {name} is a whole number from {low} to {high}, got {value!r}.")
