"""Training state without pickle: a tree of dicts, lists, numbers, strings and tensors <-> JSON plus one dict of tensors, exactly."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(tree: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """JSON-ready form of `tree`; its tensors are collected in `tensors` under their path.

    Raises TypeError, naming the path, for a value that has no place in a checkpoint.
    """
    if isinstance(tree, Tensor):
        tensors[path] = tree.detach().cpu().contiguous().clone()
        return {"$tensor": path} if tree.is_contiguous() or not _is_dense(tree) else {"$tensor": path, "stride": list(tree.stride())}
    if isinstance(tree, np.ndarray):
        # safetensors through torch has no unsigned 32/64-bit types: the bytes travel as uint8
        as_bytes = torch.from_numpy(np.frombuffer(np.ascontiguousarray(tree).tobytes(), dtype=np.uint8).copy())
        return {"$numpy": tree.dtype.str, "shape": list(tree.shape), "data": pack(as_bytes, tensors, path)}
    if isinstance(tree, dict):  # keys may be numbers (optimizer state): pairs, not a JSON object
        return {"$dict": [[pack(k, tensors, f"{path}/#{i}"), pack(v, tensors, f"{path}/{k}")] for i, (k, v) in enumerate(tree.items())]}
    if isinstance(tree, (list, tuple)):
        items = [pack(v, tensors, f"{path}/{i}") for i, v in enumerate(tree)]
        return {"$tuple": items} if isinstance(tree, tuple) else items
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    if isinstance(tree, float):
        return tree if math.isfinite(tree) else {"$float": repr(tree)}
    if isinstance(tree, np.generic):
        return pack(tree.item(), tensors, path)
    raise TypeError(f"{path or 'state'}: a {type(tree).__name__} has no place in a checkpoint")


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their stretch of memory once each, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def unpack(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of `pack`."""
    if isinstance(tree, list):
        return [unpack(v, tensors) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        # in memory of its own, with the strides it had: kernels round by alignment and layout, and a resumed run keeps its bits
        saved = tensors[tree["$tensor"]]
        return torch.empty_strided(saved.shape, tree.get("stride", saved.stride()), dtype=saved.dtype).copy_(saved)
    if "$numpy" in tree:
        data = unpack(tree["data"], tensors).numpy().tobytes()
        return np.frombuffer(data, dtype=tree["$numpy"]).reshape(tree["shape"]).copy()
    if "$dict" in tree:
        return {unpack(k, tensors): unpack(v, tensors) for k, v in tree["$dict"]}
    if "$tuple" in tree:
        return tuple(unpack(v, tensors) for v in tree["$tuple"])
    return float(tree["$float"])


def rng_state() -> dict[str, Any]:
    """State of every global random generator of this process."""
    state: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False), "torch": torch.get_rng_state()}
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Inverse of `rng_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None and device.type in state:  # a run may go on where there is another accelerator, or none
        torch.get_device_module(device).set_rng_state(state[device.type])
