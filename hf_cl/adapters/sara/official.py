"""Checkpoints of the official code as hf_cl adapters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from hf_cl.adapters.sara.config import SaraConfig
from hf_cl.adapters.sara.layer import NORMS


@torch.no_grad()
def from_official(state: Mapping[Any, Any], base_model: nn.Module, adapter_name: str = "default") -> PeftModel:
    """`base_model` with the adapter of a checkpoint that the official optimizer saved, `{"threshold": t, 0: p[mask], 1: ...}`.

    Its numbers count the model's parameters in their order; its tensors hold the trained *values* of the entries with |p| < threshold, and
    no positions. So the very base is needed that it was trained from, in the same dtype. The state is a pickle: load it with torch's
    `weights_only=True`.

    Raises ValueError where the numbers of entries do not fit the base, or where parameters were trained that SARA cannot adapt
    (embeddings, parameters outside of Linear, Conv2d and norm layers).
    """
    threshold = float(state["threshold"])
    parameters = list(base_model.named_parameters())
    stored = {name: state[i] for i, (name, _) in enumerate(parameters) if i in state}
    for name, parameter in parameters:
        expected = int((parameter.float().abs() < threshold).sum())
        if len(stored.get(name, ())) != expected:
            raise ValueError(
                f"The checkpoint has {len(stored.get(name, ()))} entries of {name}, this base {expected} below {threshold}: it was trained "
                "from another base or in another dtype."
            )
    modules = _adaptable(base_model, stored)
    lost = [name for name, p in parameters if name.rpartition(".")[0] not in modules and _moved(stored.get(name), p, threshold)]
    if lost:
        raise ValueError(f"SARA adapts Linear, Conv2d and norm layers; the checkpoint also trains {', '.join(lost[:5])}.")
    config = SaraConfig(target_modules=modules, threshold=threshold, include_bias_norm=True)
    model = get_peft_model(base_model, config, adapter_name=adapter_name)  # pyright: ignore[reportArgumentType]
    tuner: Any = model.base_model
    for name, layer in tuner.sara_layers(adapter_name):
        for e in layer.entries(adapter_name):
            base = e.base_values()
            e.values.copy_(stored[f"{name}.{e.name}"].flatten().to(base) - base)
    return model


def _adaptable(model: nn.Module, stored: Mapping[str, Tensor]) -> list[str]:
    """Names of the modules that SARA can adapt and the checkpoint has entries of."""
    kinds = (nn.Linear, nn.Conv2d, *NORMS)
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds) and module.weight is not None]
    return [name for name, _ in named if any(len(stored.get(f"{name}.{part}", ())) for part in ("weight", "bias"))]


def _moved(values: Tensor | None, parameter: Tensor, threshold: float) -> bool:
    if values is None:
        return False
    return not torch.equal(values, parameter[parameter.float().abs() < threshold].to(values))
