"""An adapter in few bits, which loads as any other.

Shapes: T tensors, Q choices of bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save
from torch import Tensor

from hf_cl.adapters.files import bare
from hf_cl.adapters.small.arrival import CODES, SCALES, place_of
from hf_cl.adapters.small.codes import VALUE_BITS
from hf_cl.adapters.small.tensors import Small, can_be_small, expand_all, shrink, shrink_all, written_table
from hf_cl.hub.agreement import Agreement, Judge
from hf_cl.hub.bit_budget import allocate
from hf_cl.hub.classifier import Classifier

_PICTURES = 128
"""On which the cost of one tensor in few bits is measured; the whole is judged on all."""


@dataclass(frozen=True)
class SmallAdapter:
    """What became of an adapter."""

    table: Mapping[str, Small]
    agreement: Agreement
    pictures: int
    bytes_before: int
    bytes_after: int

    def __str__(self) -> str:
        return (
            f"{self.bytes_before:,} bytes became {self.bytes_after:,} ({_words(self.table)}); {self.agreement.kept:.1%} of the predictions "
            f"on {self.pictures} pictures are the same, mean KL divergence {self.agreement.divergence:.1e}"
        )


def write_small(classifier: Classifier, folder: Path, judge: Judge, *, bits: int, max_bytes: int | None, keep: float) -> SmallAdapter:
    """Write the adapter with its tensors of 256 entries and more as codes and scales, and its head in 16 bits.

    Sorted positions (SARA, DST) become differences and lose nothing; masks, counts and small tensors stay. `classifier` then is what the
    file stands for.

    Args:
        classifier: with the adapter.
        folder: does not exist.
        judge: has heard it.
        bits: of a value: 2, 3, 4 or 8.
        max_bytes: that the file may have: tensor by tensor as many of these bits as fit, where they cost least; `bits` is not asked then.
        keep: the least share of predictions that must stay the same.

    Raises ValueError for other bits, where the bytes do not suffice, and where fewer predictions stay, with what was found.
    """
    if bits not in VALUE_BITS:
        raise ValueError(f"bits must be one of {', '.join(map(str, VALUE_BITS))}, got {bits!r}.")
    tensors = _Tensors(classifier)
    chosen = dict.fromkeys(tensors.values, bits) if max_bytes is None else tensors.within(max_bytes, judge)
    table, content = tensors.shrunk(chosen)
    small = SmallAdapter(table, judge.agreement(classifier.logits_of), len(judge), len(_file(tensors.whole)), len(content))
    if small.agreement.kept < keep:
        raise ValueError(
            f"Only {small.agreement.kept:.1%} of the predictions on {small.pictures} pictures stay the same with {_words(table)}, fewer "
            f"than {keep:.1%}. More bits (8 at most) keep more; --keep says how many are enough."
        )
    classifier.model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's template of a card
    (folder / SAFETENSORS_WEIGHTS_NAME).write_bytes(content)
    written = json.loads((folder / CONFIG_NAME).read_text()) | {"small": written_table(table)}
    (folder / CONFIG_NAME).write_text(json.dumps(written, indent=2, ensure_ascii=False))
    return small


class _Tensors:
    """The tensors of a loaded adapter: as its file has them, and those of the model that they are."""

    def __init__(self, classifier: Classifier) -> None:
        model: Any = classifier.model
        tuner = model.base_model
        self.classifier, self.prefix = classifier, tuner.prefix
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        self.whole = {bare(name): tensor.detach().clone().contiguous() for name, tensor in state.items()}
        self._live: dict[str, Tensor] = {}
        base = model.get_base_model()
        # those that the model computes with: what a head saves may be made for the file
        for key, tensor in {**base.state_dict(), **dict(base.named_parameters()), **dict(base.named_buffers())}.items():
            in_head = ".modules_to_save.default." in key
            name = key.replace(".modules_to_save.default.", ".") if in_head else tuner._remove_adapter_name_from_key(key, "default")
            self._live[name] = tensor
        self.chosen = {name: t for name, t in self.whole.items() if self.prefix in name and can_be_small(t) is not None}
        self.values = [name for name, tensor in self.chosen.items() if tensor.is_floating_point()]

    @torch.no_grad()
    def shrunk(self, bits: Mapping[str, int]) -> tuple[dict[str, Small], bytes]:
        """The table and the file's content; the model then has what they stand for."""
        held = {name: self._stays(name, tensor) for name, tensor in self.whole.items() if name not in self.chosen}
        table, codes, scales = shrink_all(self.chosen, bits)
        for name, tensor in (held | expand_all(table, codes, scales)).items():
            if name in self._live:
                self._live[name].copy_(tensor)
        held |= {f"{place_of(self.prefix)}.{kind}": tensor for kind, tensor in ((CODES, codes), (SCALES, scales))}
        return table, _file(held)

    def _stays(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor that is not held as codes: those of the head in 16 bits, where these can hold it."""
        if self.prefix in name or not tensor.is_floating_point():
            return tensor
        half = tensor.half()
        return half if bool(half.isfinite().all()) else tensor

    @torch.no_grad()
    def within(self, max_bytes: int, judge: Judge) -> dict[str, int]:
        """Bits of each tensor for a file of so many bytes: the costs are measured one by one, and taken to add up. Where they do not, and
        as many bits for all tensors as fit do less harm, these."""
        least = min(VALUE_BITS)
        table, content = self.shrunk(dict.fromkeys(self.values, least))
        rest = len(content) - sum(table[name].bytes for name in self.values)
        self._restore()
        choices = [[shrink(self.chosen[name], bits) for bits in VALUE_BITS] for name in self.values]
        sizes = [[small.bytes for small, _, _ in row] for row in choices]
        if rest + sum(row[0] for row in sizes) > max_bytes:
            raise ValueError(f"With {least} bits a value the file has {len(content):,} bytes, more than the {max_bytes:,} it may have.")
        if rest + sum(row[-1] for row in sizes) <= max_bytes:
            return dict.fromkeys(self.values, max(VALUE_BITS))
        costs = [self._costs(name, judge) for name in self.values]
        found = allocate(sizes, costs, max_bytes - rest)
        fitting = [bits for i, bits in enumerate(VALUE_BITS) if rest + sum(row[i] for row in sizes) <= max_bytes]
        mixed = {name: VALUE_BITS[position] for name, position in zip(self.values, found, strict=True)}
        return min(mixed, dict.fromkeys(self.values, max(fitting)), key=lambda bits: self._harm(bits, judge))

    def _harm(self, bits: Mapping[str, int], judge: Judge) -> float:
        self.shrunk(bits)
        return judge.agreement(self.classifier.logits_of).divergence

    def _costs(self, name: str, judge: Judge) -> Sequence[float]:
        """[Q] the divergence where this tensor alone is held in few bits."""
        costs = []
        for bits in VALUE_BITS:
            table, codes, scales = shrink_all({name: self.chosen[name]}, {name: bits})
            self._live[name].copy_(expand_all(table, codes, scales)[name])
            costs.append(judge.agreement(self.classifier.logits_of, _PICTURES).divergence)
        self._live[name].copy_(self.whole[name])
        return costs

    def _restore(self) -> None:
        for name, tensor in self.whole.items():
            if name in self._live:
                self._live[name].copy_(tensor)


def _file(tensors: Mapping[str, Tensor]) -> bytes:
    return save({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, metadata={"format": "pt"})


def _words(table: Mapping[str, Small]) -> str:
    bits = sorted({one.bits for one in table.values() if one.kind == "values"})
    return f"{' or '.join(map(str, bits))} bits a value" if bits else "no tensor of 256 values or more, and a head in 16 bits"
