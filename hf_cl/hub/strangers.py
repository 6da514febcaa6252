"""Files of a stranger's adapter that are not ours to read: what transformers and peft make of damaged ones, in one sentence."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from hf_cl.hub.access import HubError

MAX_SIDE = 4096
"""Pixels. An image processor that asks for more would fill the memory with one image."""
_SENTENCES = (ValueError, OSError, SafetensorError, StrictDataclassError)
"""What says of itself that a file is wrong, whoever raises it: our own checks raise ValueError."""
_READERS = frozenset({"accelerate", "huggingface_hub", "open_clip", "peft", "safetensors", "timm", "tokenizers", "transformers"})
"""Libraries that read a stranger's files before we see what is in them. For missing keys, values of a wrong type and tensors that do not
fit, transformers 5.23 and peft 0.21 raise whatever Python raises there."""
_BETWEEN = frozenset({"numpy", "PIL", "torch"}) | sys.stdlib_module_names
"""What both they and we call: who called it is to blame."""


@contextmanager
def clear_errors(adapter: str, complaint: str = "cannot be loaded") -> Iterator[None]:
    """Turn what damaged files raise into ValueError: the adapter, the complaint, and the first line of what was wrong.

    An AttributeError, a TypeError and their like are that only where a library stumbled that reads the files. One from hf_cl, or from a
    part of the user's own, is a bug there, whatever the files hold, and comes out as it is.
    """
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        if not isinstance(error, _SENTENCES) and not _stumbled_in_a_reader(error):
            raise
        cause = (str(error).strip() or type(error).__name__).splitlines()[0][:400]
        if isinstance(error, KeyError):
            cause = f"{cause} is missing"
        if isinstance(error, ValueError) and len(str(error)) < 600 and str(error).count("\n") < 3:
            cause = str(error)  # a sentence of ours, most likely
        named = cause if adapter in cause else f"The adapter {adapter} {complaint}: {cause}"
        raise ValueError(named) from error


def _stumbled_in_a_reader(error: Exception) -> bool:
    """Whether the innermost call that is to blame is a library's that reads files.

    peft's models and torch's modules look attributes up by `__getattr__`: who asked for one that is not there is to blame.
    """
    calls = [(frame.f_globals.get("__name__", ""), frame.f_code.co_name) for frame, _ in traceback.walk_tb(error.__traceback__)]
    rooms = [name.partition(".")[0] for name, function in calls if function != "__getattr__"]
    blamed = [room for room in rooms if room not in _BETWEEN]
    return bool(blamed) and blamed[-1] in _READERS


def check_processor(processor: Any) -> None:
    """Raise ValueError for an image processor that makes images larger than `MAX_SIDE`."""
    values = processor.to_dict()
    for name in ("size", "crop_size", "pad_size"):
        sides = values.get(name) or {}
        for side in sides.values() if isinstance(sides, dict) else [sides]:
            if isinstance(side, int | float) and not 0 <= side <= MAX_SIDE:
                raise ValueError(f"The image processor asks for {name} {sides}; sides go up to {MAX_SIDE} pixels.")
