"""An adapter's tensors as codes and scales, by a table in its config that says which, in how many bits, and of what shape.

Shapes: N entries of a tensor, S scales of all tensors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.adapters.small.codes import (
    VALUE_BITS,
    dequantise,
    gaps,
    pack_codes,
    pack_words,
    positions_of,
    quantise,
    unpack_codes,
    unpack_words,
    words_size,
)

BLOCK = 64
"""Neighbours in memory that share a scale: a quarter of a bit a value, whatever the tensor's shape. A scale for each row would cost four
bits a value where a row is the four of a LoRA's rank, and on rows of hundreds the largest of all sets the step of each."""
SCALE = torch.bfloat16
"""The range of float32: changes of weights are small, and below 6e-8 a float16 is 0."""
LEAST = 256
"""Entries below which a tensor stays as it is: it costs nothing."""

Kind = Literal["values", "positions"]


@dataclass(frozen=True)
class Small:
    """How one tensor is held."""

    kind: Kind
    bits: int
    shape: tuple[int, ...]

    @property
    def entries(self) -> int:
        return math.prod(self.shape)

    @property
    def code_bytes(self) -> int:
        return words_size(self.entries, self.bits)

    @property
    def scales(self) -> int:
        return -(-self.entries // BLOCK) if self.kind == "values" else 0

    @property
    def bytes(self) -> int:
        """Of the tensor in the file."""
        return self.code_bytes + self.scales * SCALE.itemsize


def read_table(values: Mapping[str, Any]) -> dict[str, Small]:
    """Tensor's name -> how it is held, of a config's `small`. Raises ValueError for an entry that is none."""
    return {name: _read(name, entry) for name, entry in values.items()}


def _read(name: str, entry: Any) -> Small:
    values: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    kind: Any = values.get("kind")
    bits, shape = values.get("bits"), values.get("shape")
    allowed = {"values": VALUE_BITS, "positions": range(1, 32)}.get(str(kind), ())
    sizes = isinstance(shape, list) and shape and all(type(size) is int and 0 < size < 2**31 for size in shape)
    if type(bits) is not int or bits not in allowed or not sizes:
        raise ValueError(f"small says of {name[:120]} {str(entry)[:120]}, which is no kind, bits and shape of a tensor.")
    return Small(kind, bits, tuple(shape or ()))


def written_table(table: Mapping[str, Small]) -> dict[str, Any]:
    """The same as JSON has it."""
    return {name: {"kind": one.kind, "bits": one.bits, "shape": list(one.shape)} for name, one in table.items()}


def sizes(table: Mapping[str, Small]) -> tuple[int, int]:
    """Bytes of all codes, number of all scales."""
    return sum(one.code_bytes for one in table.values()), sum(one.scales for one in table.values())


def can_be_small(tensor: Tensor) -> Kind | None:
    """As what a tensor can be held; None: it stays as it is."""
    if tensor.numel() < LEAST:
        return None
    if tensor.is_floating_point():
        return "values"
    is_sorted = tensor.dtype == torch.int32 and bool((gaps(tensor) >= 0).all())
    return "positions" if is_sorted else None


def shrink(tensor: Tensor, bits: int) -> tuple[Small, Tensor, Tensor]:
    """How a tensor is held, its codes [bytes] and its scales [S], float ones in so many bits; positions lose nothing."""
    if tensor.is_floating_point():
        codes, scales = quantise(_blocks(tensor), bits, SCALE)
        return Small("values", bits, tuple(tensor.shape)), pack_codes(codes.flatten()[: tensor.numel()], bits), scales
    differences = gaps(tensor).flatten()  # [N]
    width = max(1, int(differences.max()).bit_length())
    return Small("positions", width, tuple(tensor.shape)), pack_words(differences, width), torch.zeros(0, dtype=SCALE)


def shrink_all(tensors: Mapping[str, Tensor], bits: Mapping[str, int]) -> tuple[dict[str, Small], Tensor, Tensor]:
    """The table of these tensors, all codes [bytes] and all scales [S], in the table's order. `bits`: of the float ones."""
    made = {name: shrink(tensor, bits.get(name, 8)) for name, tensor in tensors.items()}
    codes, scales = [torch.zeros(0, dtype=torch.uint8)], [torch.zeros(0, dtype=SCALE)]
    table = {}
    for name, (small, own_codes, own_scales) in made.items():
        table[name] = small
        codes.append(own_codes)
        scales.append(own_scales)
    return table, torch.cat(codes), torch.cat(scales)


def expand_all(table: Mapping[str, Small], codes: Tensor, scales: Tensor) -> dict[str, Tensor]:
    """The tensors that codes [bytes] and scales [S] stand for: float32 values, int32 positions.

    Raises ValueError for codes and scales of other sizes than the table's, and for scales that are no finite sizes.
    """
    expected = sizes(table)
    if (len(codes), len(scales)) != expected:
        raise ValueError(
            f"There are {len(codes)} bytes of codes and {len(scales)} scales where the config's table has {expected[0]} and {expected[1]}: "
            "the file is damaged, or its config belongs to another one."
        )
    if not bool((scales.isfinite() & (scales >= 0)).all()):
        raise ValueError("Some scales are negative or not finite: the file is damaged.")
    parts = codes.split([one.code_bytes for one in table.values()])
    steps = scales.split([one.scales for one in table.values()])
    return {name: expand(one, part, step) for (name, one), part, step in zip(table.items(), parts, steps, strict=True)}


def expand(small: Small, codes: Tensor, scales: Tensor) -> Tensor:
    """One tensor. Raises ValueError for positions beyond what int32 holds."""
    if small.kind == "positions":
        differences = unpack_words(codes, small.bits, small.entries).view(small.shape)
        if int(differences.sum(-1).max()) >= 2**31:
            raise ValueError("Some positions are larger than any tensor: the file is damaged.")
        return positions_of(differences)
    found = unpack_codes(codes, small.bits, small.entries)
    padded = torch.nn.functional.pad(found, (0, BLOCK * small.scales - small.entries)).view(-1, BLOCK)  # [S, BLOCK]
    return dequantise(padded, scales).flatten()[: small.entries].view(small.shape)


def _blocks(tensor: Tensor) -> Tensor:  # [...] -> [S, BLOCK]
    flat = tensor.detach().flatten().to(torch.promote_types(tensor.dtype, torch.float32))  # [N]
    return torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
