"""What a SARA tuner does for training: the progressive switch, the rank term, counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hf_cl.adapters.sara.entries import Entries
from hf_cl.adapters.sara.layer import SaraLayer
from hf_cl.adapters.weight_targets import WeightTargets


class SaraTraining(WeightTargets):
    """The part of `SaraModel` that training calls. All methods take the active adapter where none is named."""

    peft_config: Any

    def sara_layers(self, adapter_name: str | None = None) -> Iterator[tuple[str, SaraLayer]]:
        """(module name, layer) of every module that the adapter has entries in.

        Raises ValueError where several adapters are active and none is named.
        """
        adapter_name = self._adapter(adapter_name)
        for name, module in self.model.named_modules():
            if isinstance(module, SaraLayer) and module.has(adapter_name):
                yield name, module

    def sara_entries(self, adapter_name: str | None = None) -> Iterator[tuple[SaraLayer, Entries]]:
        """The adapter's entries, tensor by tensor.

        Raises RuntimeError while an adapter is merged: the base's own values are not there then.
        """
        adapter_name = self._adapter(adapter_name)
        for name, layer in self.sara_layers(adapter_name):
            if layer.merged:
                raise RuntimeError(f"SARA: {name} has merged adapters; call unmerge_adapter() before training.")
            for entries in layer.entries(adapter_name):
                yield layer, entries

    def all_sara_layers(self) -> Iterator[SaraLayer]:
        """Every layer, whichever adapters it has."""
        return (module for module in self.model.modules() if isinstance(module, SaraLayer))

    def _adapter(self, adapter_name: str | None) -> str:
        if adapter_name is not None:
            return adapter_name
        if len(self.active_adapters) != 1:
            raise ValueError(f"SARA trains one adapter at a time; name one of the active adapters {self.active_adapters}.")
        return self.active_adapters[0]

    @torch.no_grad()
    def progressive_switch(self, adapter_name: str | None = None) -> int:
        """Stop training the entries whose effective value has left the threshold; returns how many go on.

        The threshold is the config's, or with `density` the largest magnitude selected at injection in each tensor. Stopped entries keep
        their values from then on through the optimizer hooks of `attach`. They stay stopped.
        """
        adapter_name = self._adapter(adapter_name)
        config = self.peft_config[adapter_name]
        for layer, e in self.sara_entries(adapter_name):
            if len(e.values):
                base = e.base_values()
                effective = base + e.values * layer.sara_scaling[adapter_name]
                e.active.logical_and_(effective.abs() < (config.threshold if config.density is None else base.abs().max()))
        return self.active_entries(adapter_name)[0]

    def active_entries(self, adapter_name: str | None = None) -> tuple[int, int]:
        """(entries that still train, entries of the adapter)."""
        found = [e for _, e in self.sara_entries(adapter_name)]
        return sum(int(e.active.sum()) for e in found), sum(len(e.values) for e in found)

    def selected_threshold(self, adapter_name: str | None = None) -> float:
        """The threshold in force: the config's, or with `density` the largest selected magnitude, mean over the weights (norms apart)."""
        adapter_name = self._adapter(adapter_name)
        config = self.peft_config[adapter_name]
        if config.density is None:
            return config.threshold
        weights = [e for _, e in self.sara_entries(adapter_name) if e.base.dim() > 1]
        return float(torch.stack([e.base_values().abs().max() for e in weights]).mean())

    def rank_loss(self, step: int, adapter_name: str | None = None) -> Tensor:
        """Sum of the singular values of the trained entries, laid out as a matrix: the paper's nuclear-norm term without its factor.

        `rank_mode="one"` takes one random matrix, the same on every process for a given `step`; "all" takes the sum over them. With
        `rank_on="delta"` the norm is that of the change, whose gradient at 0 is taken as 0.

        Raises ValueError where no matrix is large enough: `rank_min_dim`, `rank_min_nnz`.
        """
        adapter_name = self._adapter(adapter_name)
        config = self.peft_config[adapter_name]
        matrices = [(layer, e) for layer, e in self.sara_entries(adapter_name) if e.base.dim() == 2]
        found = [(layer, e) for layer, e in matrices if min(e.base.shape) > config.rank_min_dim and len(e.values) > config.rank_min_nnz]
        if not found:
            raise ValueError(
                f"The rank term has nothing to work on: no adapted matrix has both sides above {config.rank_min_dim} and more than "
                f"{config.rank_min_nnz} trained entries. Lower rank_min_dim and rank_min_nnz, or set lambda_rank to 0."
            )
        # the progressive switch may leave a matrix with too few entries; it drops out, as in the official code
        found = [(layer, e) for layer, e in found if layer.num_active(adapter_name) > config.rank_min_nnz]
        if config.rank_mode == "one" and found:
            generator = torch.Generator().manual_seed(step)
            found = [found[int(torch.randint(len(found), (), generator=generator))]]
        norms = [_nuclear_norm(e, layer.sara_scaling[adapter_name], config.rank_on) for layer, e in found]
        return torch.stack(norms).sum() if norms else torch.zeros((), device=next(self.model.parameters()).device)


def _nuclear_norm(e: Entries, scaling: float, on: str) -> Tensor:
    """Sum of the singular values of the matrix of the entries that still train, zeros elsewhere."""
    change = e.values * scaling
    entries = torch.where(e.active, change if on == "delta" else e.base_values() + change, 0.0)
    empty = torch.zeros(e.base.numel(), dtype=entries.dtype, device=entries.device)
    matrix = empty.index_put((e.indices.long(),), entries).view_as(e.base)  # [O, I]
    # the singular vectors of a zero matrix are arbitrary, and so would be the gradient
    return torch.linalg.svdvals(matrix).sum() * (matrix != 0).any()
