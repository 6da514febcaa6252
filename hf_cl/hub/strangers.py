"""Files of a stranger's adapter that are not ours to read: what transformers and peft make of damaged ones, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from hf_cl.hub.access import HubError

MAX_SIDE = 4096
"""Pixels. An image processor that asks for more would fill the memory with one image."""
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
)
"""What transformers 5.23 and peft 0.21 raise for files with missing keys, values of a wrong type, or tensors that do not fit."""


@contextmanager
def clear_errors(adapter: str, complaint: str = "cannot be loaded") -> Iterator[None]:
    """Turn whatever damaged files raise into ValueError: the adapter, the complaint, and the first line of what was wrong."""
    try:
        yield
    except HubError:
        raise
    except _DAMAGE as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:400]
        if isinstance(error, KeyError):
            cause = f"{cause} is missing"
        if isinstance(error, ValueError) and len(str(error)) < 600 and str(error).count("\n") < 3:
            cause = str(error)  # a sentence of ours, most likely
        named = cause if adapter in cause else f"The adapter {adapter} {complaint}: {cause}"
        raise ValueError(named) from error


def check_processor(processor: Any) -> None:
    """Raise ValueError for an image processor that makes images larger than `MAX_SIDE`."""
    values = processor.to_dict()
    for name in ("size", "crop_size", "pad_size"):
        sides = values.get(name) or {}
        for side in sides.values() if isinstance(sides, dict) else [sides]:
            if isinstance(side, int | float) and not 0 <= side <= MAX_SIDE:
                raise ValueError(f"The image processor asks for {name} {sides}; sides go up to {MAX_SIDE} pixels.")
