"""A device that is not there: its tensors live in the CPU's memory, say that they are elsewhere, and refuse what a GPU's would refuse.

The whole loop runs on it unchanged, with real values: injection, batches, steps, checkpoints, resume, evaluation, adapter files. Two things
show that a CPU cannot show: operations that mix tensors of both memories, and operations for which a GPU's host would wait.

It is PyTorch's own place for devices of others (PrivateUse1), filled from Python. A tensor of it wraps one on the CPU, and a dispatch mode
unwraps, computes and wraps again, so that no kernel has to be registered. Autocast and `torch.compile` do not know it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "elsewhere"
ATEN = torch.ops.aten


class _Module:
    """What `torch.get_device_module` gives for it. It is there only while a `FakeDevice` is."""

    there = False

    def is_available(self) -> bool:
        return self.there

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def manual_seed_all(self, seed: int) -> None:
        """The generator is the CPU's."""

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return _Module.there

    def has_primary_context(self, device_index: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


def device() -> torch.device:
    """The device; made known to PyTorch the first time, which lasts for the process.

    PyTorch has one accelerator in a process, and from then on it is this one. So where there is a real one, the test is skipped.
    """
    if torch._C._get_privateuse1_backend_name() != NAME:
        if torch.accelerator.is_available():
            real = torch.accelerator.current_accelerator()
            pytest.skip(f"there is a {real} device: the fake one would hide it from every other test of this process (make gpu uses it)")
        backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), _Hooks())
    return torch.device(NAME, 0)


class Elsewhere(Tensor):
    """A tensor of the device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        made: Any = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=device()
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # a mode that is inside another one, as a counter of operations is, leaves its calls to the tensors
        return _run(func, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) not in memo:
            new = self.detach().clone()
            memo[id(self)] = nn.Parameter(new, self.requires_grad) if isinstance(self, nn.Parameter) else new
        return memo[id(self)]

    def __repr__(self, *args: Any, **kwargs: Any) -> str:
        return f"Elsewhere({self.inner})"

    @property
    def data(self) -> Tensor:
        return torch._C.TensorBase.data.__get__(self)

    @data.setter
    def data(self, value: Elsewhere) -> None:
        self.inner = value.inner  # what is wrapped is the memory

    # What reads memory directly, to save or to compare it
    def tolist(self) -> Any:
        _note("tolist")
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.inner.untyped_storage()


class MixedDevicesError(RuntimeError):
    """Tensors of both memories in one operation."""


_WAIT = {
    ATEN._local_scalar_dense.default,
    ATEN.is_nonzero.default,
    ATEN.nonzero.default,
    ATEN.masked_select.default,
    ATEN.equal.default,
    ATEN._unique2.default,
    ATEN.unique_dim.default,
    ATEN.repeat_interleave.Tensor,
    ATEN.bincount.default,
    ATEN._linalg_svd.default,
    ATEN._linalg_check_errors.default,
}
"""Operations whose host waits for what they found."""
_INDEXING = {
    ATEN.index.Tensor,
    ATEN.index_put.default,
    ATEN.index_put_.default,
    ATEN._index_put_impl_.default,
    ATEN._unsafe_index_put.default,
}
"""They take positions from either memory; those of the host are copied, and a mask is counted: both wait."""
_COPIES = {ATEN._to_copy.default, ATEN.copy_.default, ATEN._foreach_copy_.default}
"""They go between the memories, and wait unless `non_blocking`."""

_watching: list[Callable[[str], None]] = []


def _note(what: str) -> None:
    if _watching:
        _watching[-1](what)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _map(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of each leaf; PyTorch's own `tree_map` knows more containers and takes most of a test's time."""
    kind = type(value)
    if kind is list or kind is tuple:
        return kind([_map(function, item) for item in value])
    if kind is dict:
        return {name: _map(function, item) for name, item in value.items()}
    return function(value)


def _first(value: Any) -> Any:
    """The first leaf."""
    return _first(value[0]) if isinstance(value, list | tuple) else value


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    wrappers: dict[int, Elsewhere] = {}
    here: list[Tensor] = []

    def inside(value: Any) -> Any:
        if isinstance(value, Tensor):
            if not isinstance(value, Elsewhere):
                here.append(value)
                return value
            wrappers[id(value.inner)] = value
            return value.inner
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    unwrapped, named = _map(inside, args), _map(inside, kwargs)
    wanted = kwargs.get("device")
    to_device = bool(wrappers) if wanted is None else torch.device(wanted).type == NAME
    if func is ATEN.copy_.default:
        to_device = isinstance(args[0], Elsewhere)
    if wrappers:
        _look(func, args, kwargs, here)
    elif func is ATEN._to_copy.default and to_device and not kwargs.get("non_blocking"):
        _note("copy from the host")
    out = func(*unwrapped, **named)
    if not to_device:
        return out

    def outside(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return wrappers[id(value)] if id(value) in wrappers else Elsewhere(value)  # an operation in place returns what it was given

    return _map(outside, out)


def _look(func: Any, args: Any, kwargs: Any, here: list[Tensor]) -> None:
    """Refuse what a GPU refuses, and note what it waits for. Numbers on the host (tensors without dimensions) go along with any other."""
    large = [tensor for tensor in here if tensor.dim() > 0]
    if func in _INDEXING:
        indices = [index for index in args[1] if index is not None]
        if not isinstance(args[0], Elsewhere) or any(tensor is value for tensor in large for value in args[2:3]):
            raise MixedDevicesError(f"{func} on tensors of {NAME} and of the CPU")
        if large or any(map(_is_mask, indices)):
            _note(str(func))
    elif func in _COPIES:
        away = func is ATEN._to_copy.default and kwargs.get("device") is not None and torch.device(kwargs["device"]).type != NAME
        if (here or away) and not (kwargs.get("non_blocking") or True in args[2:]):
            _note("copy to the host" if away or not isinstance(_first(args), Elsewhere) else "copy from the host")
    elif large:
        raise MixedDevicesError(f"{func} on tensors of {NAME} and of the CPU, of shapes {[list(t.shape) for t in large]}")
    elif func in _WAIT:
        _note(str(func))


class FakeDevice(TorchDispatchMode):
    """While it is open, accelerate's device is the fake one.

    With `swap`, `Module.to` keeps the identity of parameters. `waits` are those seen inside `watching`: (where, what) -> the values that
    `now` had, a set.
    """

    def __init__(self, *, swap: bool = True) -> None:
        super().__init__()
        self.swap = swap
        self.waits: defaultdict[tuple[str, str], set[Any]] = defaultdict(set)
        self.now: Any = None
        self._patch = pytest.MonkeyPatch()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __enter__(self) -> FakeDevice:
        fake = device()
        for state in (PartialState, AcceleratorState):  # whatever they are given, they say the fake one
            self._patch.setattr(state, "device", property(lambda state: fake, lambda state, value: None), raising=False)
        self._patch.setattr(_Module, "there", True)
        self._threads = torch.autograd.set_multithreading_enabled(False)  # a backward pass stays in this thread
        # `torch.tensor(..., device=)` would fill the device's memory behind the mode
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        # `Module.to` keeps the parameters' identity on a GPU; so it does here, by swapping what they hold, which PyTorch refuses where
        # a graph or a view holds on to them
        self._swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(self.swap)
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        torch.__future__.set_swap_module_params_on_conversion(self._swaps)
        torch._C._set_only_lift_cpu_tensors(self._lifts)
        self._threads.__exit__(None, None, None)
        self._patch.undo()

    @contextmanager
    def watching(self, on: bool = True) -> Iterator[None]:
        """Note waits inside the block, or (`on=False`, inside such a block) do not."""
        _watching.append((lambda what: self.waits[_site(), what].add(self.now)) if on else (lambda what: None))
        try:
            yield
        finally:
            _watching.pop()


_PLACES = ("/hf_cl/", "/torch/optim/", "/tests/")
_OWN = (__file__, str(Path(__file__).with_name("device_runs.py")))


def _site() -> str:
    """`folder/file.py function` of the innermost frame of ours, or of an optimizer."""
    frame = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if any(place in path for place in _PLACES) and path not in _OWN:
            return f"{'/'.join(Path(path).parts[-2:])} {frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"
