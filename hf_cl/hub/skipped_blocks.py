"""Residual blocks of a vision tower: what each does, and a model without those that do little.

Shapes: L blocks, B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl.adapters.bases import PATCH_TOKENS, family_of
from hf_cl.hub.agreement import Judge


class Measures(NamedTuple):
    """What blocks do to their inputs, by themselves."""

    influence: Tensor  # [L] one minus the mean cosine of a block's input and output
    local_error: Tensor  # [L - 1] of a block taken as a step of Euler's rule, in units of the tolerance
    stiffness: Tensor  # [L - 1] by how much the next block's change differs, beside the change itself


@dataclass(frozen=True)
class SkippedBlocks:
    """What was skipped, and what it costs."""

    skipped: tuple[int, ...]
    kept: float
    """Share of predictions that are the same without them."""
    alone: tuple[float, ...]
    """[L] the same without each block alone."""
    measures: Measures
    pictures: int

    def __str__(self) -> str:
        if not self.skipped:
            return f"no block was skipped: without the one that is missed least {max(self.alone):.1%} of the predictions stay the same"
        which = ", ".join(map(str, self.skipped))
        return (
            f"blocks {which} of {len(self.alone)} are skipped; {self.kept:.1%} of the predictions on {self.pictures} pictures are the same"
        )

    def table(self) -> str:
        """Markdown: a row for each block."""
        rows = ["| block | predictions kept without it | influence | local error | stiffness |", "|---|---|---|---|---|"]
        for block, kept in enumerate(self.alone):
            more = [f"{measure[block]:.3g}" if block < len(measure) else "-" for measure in self.measures]
            mark = " (skipped)" if block in self.skipped else ""
            rows.append(f"| {block}{mark} | {kept:.1%} | {' | '.join(more)} |")
        return "\n".join(rows)


def block_measures(states: Sequence[Tensor], atol: float = 0.01, rtol: float = 0.1) -> Measures:
    """Of the residual stream before each block and after the last: L + 1 tensors [..., D].

    Each block is a step of Euler's rule, and the difference of two steps an estimate of its error, as solvers have it: Pal et al., "Opening
    the Blackbox: Accelerating Neural Differential Equations by Regularizing Internal Solver Heuristics", ICML 2021 (arXiv 2105.03918).
    """
    steps = [after - before for before, after in pairwise(states)]  # f_l
    influence = [1 - F.cosine_similarity(before, after, dim=-1).mean() for before, after in pairwise(states)]
    errors, stiffness = [], []
    for i, (now, then) in enumerate(pairwise(steps)):
        tolerance = atol + rtol * torch.maximum(states[i].abs(), states[i + 2].abs())
        errors.append(((then - now) / tolerance).square().mean(-1).sqrt().mean())
        stiffness.append(((then - now).norm(dim=-1) / now.norm(dim=-1)).mean())
    return Measures(torch.stack(influence), torch.stack(errors), torch.stack(stiffness))


def blocks_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Path and blocks of the vision tower. Raises ValueError for models whose blocks hf_cl does not know."""
    family = family_of(model)
    if family not in PATCH_TOKENS:
        raise ValueError(f"Blocks can be skipped in {', '.join(PATCH_TOKENS)}; this base is {family}.")
    return next((path, module) for path, module in model.named_modules() if isinstance(module, nn.ModuleList))


def skip_blocks(model: nn.Module, judge: Judge, skip: Sequence[int] | str, keep: float) -> SkippedBlocks:
    """Take blocks out of a transformers model, in place; its config then says how many are left.

    Args:
        model: gives `.logits` of pixel values.
        judge: has heard it, or the adapter that was merged into it.
        skip: positions, or "auto": again and again the block without which most predictions stay, while `keep` of them do.
        keep: the least share of predictions that must stay the same.

    Raises ValueError for positions that are none, for all blocks, and where fewer predictions stay, with the number.
    """
    path, blocks = blocks_of(model)
    whole = list(blocks)
    kept = list(range(len(whole)))

    def without(positions: Sequence[int]) -> float:
        with _only(model, path, [whole[i] for i in kept if i not in positions]):
            return judge.agreement(_logits_of(model)).kept

    alone = tuple(without([block]) for block in kept)
    measures = block_measures(_states(model, blocks, judge.some_pixels))
    share = 1.0
    if isinstance(skip, str):
        shares = dict(enumerate(alone))
        while len(kept) > 1 and max(shares.values()) >= keep:
            block = max(shares, key=lambda position: shares[position])
            share = shares[block]
            kept.remove(block)
            shares = {position: without([position]) for position in kept}
    else:
        _check(skip, len(whole))
        share = without(skip)
        kept = [position for position in kept if position not in skip]
    skipped = tuple(sorted(set(range(len(whole))) - set(kept)))
    if share < keep:
        raise ValueError(
            f"Without blocks {', '.join(map(str, skipped))} only {share:.1%} of the predictions on {len(judge)} pictures stay the same, "
            f"fewer than {keep:.1%}; without each of the {len(whole)} alone {', '.join(f'{one:.1%}' for one in alone)}."
        )
    model.set_submodule(path, nn.ModuleList([whole[i] for i in kept]))
    _vision_config(model).num_hidden_layers = len(kept)
    return SkippedBlocks(skipped, share, alone, measures, len(judge))


def _check(skip: Sequence[int], depth: int) -> None:
    strangers = [position for position in skip if not 0 <= position < depth]
    if strangers or not skip or len(set(skip)) >= depth:
        raise ValueError(f"skip_blocks is auto or some of the blocks 0 to {depth - 1}, not all of them; got {list(skip)}.")


def _logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda pixels: model(pixel_values=pixels).logits


@contextmanager
def _only(model: nn.Module, path: str, blocks: Sequence[nn.Module]) -> Iterator[None]:
    """The model with these blocks alone, for a while."""
    before = model.get_submodule(path)
    model.set_submodule(path, nn.ModuleList(blocks))
    try:
        yield
    finally:
        model.set_submodule(path, before)


@torch.no_grad()
def _states(model: Any, blocks: nn.ModuleList, pixels: Tensor) -> list[Tensor]:
    """[B, T, D] before each block and after the last."""
    states: list[Tensor] = []
    handles = [block.register_forward_pre_hook(lambda _, args: states.append(args[0])) for block in blocks]

    def last(_block: nn.Module, _args: Any, output: Any) -> None:
        states.append(output)

    handles.append(blocks[-1].register_forward_hook(last))
    try:
        model(pixel_values=pixels)
    finally:
        for handle in handles:
            handle.remove()
    return states


def _vision_config(model: Any) -> Any:
    return getattr(model.config, "vision_config", model.config)
