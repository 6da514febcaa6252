"""The tuner layer of DST.

Shapes: n entries of a session in one weight, N entries of the weight, S sessions that have ended.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl._peft import BufferDict
from hf_cl.adapters.dst.config import DstConfig
from hf_cl.adapters.dst.rewiring import Draw, at_random, dying, largest
from hf_cl.adapters.sara.selection import check_positions
from hf_cl.adapters.sara.sparse_linear import gathered, moved
from hf_cl.adapters.weight_change import Change
from hf_cl.adapters.weight_layer import WeightLayer

VALUES, INDICES, KEPT_VALUES, KEPT_INDICES = "dst_values", "dst_indices", "dst_kept_values", "dst_kept_indices"


@dataclass(frozen=True, eq=False)
class SparseDelta(Change):
    """W' = W + D, D zero but at the positions of this session and of earlier ones; the storage of SARA."""

    sink: Callable[[Tensor], None] | None
    """Where a dense gradient goes that a rewiring wants to see."""

    def effective(self, weight: Tensor, *tensors: Tensor) -> Tensor:
        for indices, values in zip(tensors[::2], tensors[1::2], strict=True):
            weight = moved(weight, indices.flatten(), values.flatten())
        return weight

    def gradients(self, g: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        if self.sink is not None:
            self.sink(g)
        return tuple(
            g.flatten().index_select(0, tensors[i - 1]).to(tensor.dtype) if tensor.requires_grad else None
            for i, tensor in enumerate(tensors)
        )

    def gradients_of_product(self, g: Tensor, x: Tensor, weight: Tensor, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        if self.sink is not None:
            return self.gradients(g.T @ x, weight, *tensors)
        return tuple(gathered(g, x, tensors[i - 1], tensor, None) if tensor.requires_grad else None for i, tensor in enumerate(tensors))


class DstLayer(WeightLayer):
    """A Linear or Conv2d with sparse differences: `dst_values` [n] (float32) at `dst_indices` [n] (int32, sorted), which train and are
    rewired in place, and from the second session on `dst_kept_values` [S, n] at `dst_kept_indices` [S, n], which do neither."""

    adapter_layer_names: tuple[str, ...] = (VALUES,)
    other_param_names: tuple[str, ...] = (INDICES, KEPT_VALUES, KEPT_INDICES, "dst_fired", "dense", "_checked", "_unmerged")

    def make_containers(self) -> None:
        self.dst_values: Any = nn.ParameterDict()
        self.dst_indices: Any = BufferDict(persistent=True)
        self.dst_kept_values: Any = BufferDict(persistent=True)
        self.dst_kept_indices: Any = BufferDict(persistent=True)
        self.dst_fired: Any = BufferDict(persistent=False)  # [N] bool, what this session has had; where growth asks for it
        self.dense: dict[str, Tensor] = {}
        self._checked: dict[str, tuple[Any, ...]] = {}
        self.keeps_dense = False
        self.until: int | None = None

    def update_layer(self, adapter_name: str, config: DstConfig) -> None:
        """Room for the entries that the config's record names; a new adapter has none yet, since their number takes all layers."""
        weight, count = self.original.weight, config.nnz_pattern.get(self.module_name, 0)
        if not 0 <= config.sessions * count <= weight.numel():
            raise ValueError(
                f"DST: {config.sessions} sessions of {count} entries at {self.module_name} are more than its {weight.numel()} weights. "
                "Load the base that the adapter names, or make a new config to train on this one."
            )
        self._put(adapter_name, torch.arange(count, dtype=torch.int32), trains=True)
        if count and config.growth == "random_unfired" and not config.inference_mode:
            self.dst_fired[adapter_name] = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
        if config.sessions > 1:
            rows = torch.arange((config.sessions - 1) * count, dtype=torch.int32).view(-1, count) + count  # places; the file has others
            self.dst_kept_indices[adapter_name] = rows.to(weight.device)
            self.dst_kept_values[adapter_name] = torch.zeros(rows.shape, device=weight.device)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def _put(self, adapter_name: str, indices: Tensor, trains: bool) -> None:
        device = self.original.weight.device
        self.dst_values[adapter_name] = nn.Parameter(torch.zeros(len(indices), device=device), requires_grad=trains)
        self.dst_indices[adapter_name] = indices.to(device)

    def start(self, adapter_name: str, config: DstConfig, count: int) -> None:
        """A new adapter's `count` entries at positions drawn at random, of value 0 unless `init_weights` is False."""
        old = self.dst_values[adapter_name]
        self._put(adapter_name, self._drawn(config, count, 0, self.free(adapter_name)), trains=old.requires_grad)
        if not config.init_weights:
            nn.init.normal_(self.dst_values[adapter_name], std=1e-2)
        if old.device.type == "meta":
            self.dst_values[adapter_name] = nn.Parameter(self.dst_values[adapter_name].to("meta"), requires_grad=old.requires_grad)
        self._fire(adapter_name, config)

    @torch.no_grad()
    def grow(self, adapter_name: str, config: DstConfig, session: int) -> None:
        """A session begins: the entries so far are kept as they are, and as many new ones drawn outside of all that are taken."""
        for name, kept in ((INDICES, KEPT_INDICES), (VALUES, KEPT_VALUES)):
            row = getattr(self, name)[adapter_name].detach().clone()[None]  # [1, n]
            rows = dict(getattr(self, kept).items())
            getattr(self, kept)[adapter_name] = torch.cat([rows[adapter_name], row]) if adapter_name in rows else row  # [S, n]
        free, values = self.free(adapter_name), self.dst_values[adapter_name]
        if int(free.sum()) < len(values):
            raise ValueError(
                f"DST: session {session} finds {int(free.sum())} free weights at {self.module_name} and needs {len(values)}. Fewer "
                "sessions, or a smaller density, fit."
            )
        self.dst_indices[adapter_name].copy_(self._drawn(config, len(values), session, free))
        values.zero_()
        self._fire(adapter_name, config)

    def _drawn(self, config: DstConfig, count: int, session: int, free: Tensor) -> Tensor:
        """[n] int32: a function of the config's seed, the module and the session, so that every process draws the same."""
        digest = hashlib.sha256(repr((config.seed, self.module_name, session)).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return at_random(free, count, lambda n: torch.randperm(n, generator=generator)).to(torch.int32)

    def _fire(self, adapter_name: str, config: DstConfig) -> None:
        if config.growth == "random_unfired":
            fired = torch.zeros(self.original.weight.numel(), dtype=torch.bool, device=self.original.weight.device)
            self.dst_fired[adapter_name] = fired.index_fill(0, self.dst_indices[adapter_name].long(), True)

    @torch.no_grad()
    def free(self, adapter_name: str) -> Tensor:
        """[N] bool: weights that are neither of this session's entries nor of earlier ones'."""
        weight = self.original.weight
        taken = [self.dst_indices[adapter_name], *self._kept(adapter_name)[:1]]
        free = torch.ones(weight.numel(), dtype=torch.bool, device="cpu" if weight.is_meta else weight.device)
        return free.index_fill(0, torch.cat([some.flatten() for some in taken]).long().to(free.device), False)

    def _kept(self, adapter_name: str) -> list[Tensor]:
        """Positions and values of ended sessions; none in the first."""
        if adapter_name not in self.dst_kept_indices:
            return []
        return [self.dst_kept_indices[adapter_name], self.dst_kept_values[adapter_name]]

    # What is applied
    def change(self, adapter_name: str) -> tuple[Change, tuple[Tensor, ...]]:
        kept, mine = self._kept(adapter_name), (self.dst_indices[adapter_name], self.dst_values[adapter_name])
        if self.until is not None and kept and self.until < len(kept[0]):  # as it was at the end of that session
            return SparseDelta(None), tuple(rows[: self.until + 1] for rows in kept)
        sink = (lambda dense: self._keep(adapter_name, dense)) if self.keeps_dense else None
        return SparseDelta(sink), (*kept, *mine)

    def _keep(self, adapter_name: str, dense: Tensor) -> None:
        dense = dense.detach().float()
        self.dense[adapter_name] = self.dense[adapter_name] + dense if adapter_name in self.dense else dense

    def applied(self) -> list[str]:
        names = super().applied()
        if not torch.compiler.is_compiling():
            for name in names:
                self._check_once(name)
        return names

    def _check_once(self, adapter_name: str) -> None:
        """Positions are checked after they were written, since every loading route ends here; looking asks the device."""
        tensors = [self.dst_indices[adapter_name], *self._kept(adapter_name)[:1]]
        state = tuple((id(tensor), 0 if tensor.is_inference() else tensor._version) for tensor in tensors)
        if self._checked.get(adapter_name) != state:
            self.check(adapter_name, tensors[0], tensors[1] if len(tensors) > 1 else ())
            self._checked[adapter_name] = state

    def check(self, adapter_name: str, indices: Tensor, kept: Iterable[Tensor]) -> None:
        """Raise ValueError unless positions lie in the weight, sorted and distinct, session by session."""
        for number, row in enumerate([*kept, indices]):
            where = f"DST adapter {adapter_name!r} at {self.module_name}, session {number}"
            check_positions(row, len(self.dst_values[adapter_name]), self.original.weight.numel(), where)

    def touched(self, adapter_name: str) -> Tensor:
        return torch.cat([self.dst_indices[adapter_name], *(rows.flatten() for rows in self._kept(adapter_name)[:1])]).long()

    # Rewiring
    @torch.no_grad()
    def rewire(self, adapter_name: str, config: DstConfig, rate: float, draw: Draw, moments: Iterable[Tensor]) -> int:
        """Drop `rate` of the session's entries and let as many grow, in place; returns how many.

        New ones start at 0. `moments` [n] are the optimizer's, which follow their entries and are 0 for new ones. Reads and empties
        `dense`, the gradient of the last step.
        """
        indices, values, dense = self.dst_indices[adapter_name], self.dst_values[adapter_name], self.dense.pop(adapter_name, None)
        flat = None if dense is None else dense.flatten()
        free = self.free(adapter_name)
        count = min(math.ceil(rate * len(values)), len(values))
        gone = dying(values.detach(), None if flat is None else flat[indices.long()], count, config.death)
        stays = torch.ones(len(values), dtype=torch.bool, device=values.device).index_fill(0, gone, False)
        allowed = free.index_fill(0, indices[gone].long(), True)
        if config.growth == "gradient":
            assert flat is not None
            grown = largest(flat.abs(), allowed, count)
        else:
            unfired = ~self.dst_fired[adapter_name] if config.growth == "random_unfired" else None
            grown = at_random(allowed, count, draw, unfired)
        places = torch.cat([indices[stays], grown.to(torch.int32)])  # [n]
        order = places.argsort()
        indices.copy_(places[order])
        for tensor in (values, *moments):
            tensor.copy_(torch.cat([tensor[stays], tensor.new_zeros(count)])[order])
        if adapter_name in self.dst_fired:
            self.dst_fired[adapter_name].index_fill_(0, grown, True)
        return count

    def extra_repr(self) -> str:
        size = self.original.weight.numel()
        return ", ".join(f"{name}: {len(v)} of {size} entries a session ({len(v) / size:.2%})" for name, v in self.dst_values.items())
