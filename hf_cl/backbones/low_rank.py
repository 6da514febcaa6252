"""A base made smaller once, before any adapter: its large Linears as products of two thin ones.

Guo, Mao, Hu, Zhang, Nie, "PELA: Learning Parameter-Efficient Models with Low-Rank Approximation", CVPR 2024 (arXiv 2310.10700; code:
guoyang9/PELA).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from hf_cl._peft import BaseTunerLayer, ModulesToSaveWrapper
from hf_cl.adapters.low_rank_linear import MIN_OUT_FEATURES, LowRankLinear, checked_rank, is_low_rank, ranks
from hf_cl.adapters.weight_targets import WeightTargets

WEIGHTS = "model.safetensors"
KEY = "hf_cl_low_rank"
"""In the config.json of a saved one: `ratio`, `ranks` by module name, and of what it was made."""


def compress(
    model: Any,
    ratio: float = 2.0,
    target_modules: Sequence[str] | None = None,
    min_out_features: int = MIN_OUT_FEATURES,
    **about: Any,
) -> Any:
    """A copy of the model with pairs in the place of its Linears, each of the best factors of its rank and 1/ratio of its entries.

    Args:
        model: a model of transformers without adapters; it stays as it is.
        ratio: by which each matrix shrinks.
        target_modules: names at the end of the modules' own; None: the Linears of attention and MLP.
        min_out_features: smaller ones are left alone.
        about: what else the config tells of the compression, as JSON can hold it.

    Raises ValueError for a model that is compressed already or has adapters, a ratio that leaves nothing or saves nothing, names that hit
    no Linear, and weights that two modules share.
    """
    if is_low_rank(model):
        raise ValueError("This base is compressed already; factors of factors would lose twice. Compress the original.")
    if any(isinstance(module, BaseTunerLayer | ModulesToSaveWrapper) for module in model.modules()):
        raise ValueError("This model has adapters; compress the base alone, and train adapters on the result.")
    kind = getattr(getattr(model, "config", None), "model_type", "custom")
    names = target_modules or WeightTargets.target_module_mapping.get(kind, ())
    found = {name: module for name, module in model.named_modules() if any(f".{name}".endswith(f".{target}") for target in names)}
    _check(found, names, ratio)
    large = {name: module for name, module in found.items() if module.out_features >= min_out_features}
    sizes = {name: checked_rank(name, module.in_features, module.out_features, ratio) for name, module in large.items()}
    return with_pairs(model, {name: LowRankLinear.of(large[name], rank) for name, rank in sizes.items()}, ratio=ratio, **about)


def with_pairs(model: Any, pairs: Mapping[str, LowRankLinear], **about: Any) -> Any:
    """A copy of the model with these pairs at the places of these names.

    Args:
        model: without adapters; it stays as it is.
        pairs: module name -> pair, as `LowRankModel.pairs` gives them.
        about: what else the config tells of the compression, as JSON can hold it.
    """
    small = deepcopy(model)
    for name, pair in pairs.items():
        small.set_submodule(name, pair)
    if isinstance(small, PreTrainedModel):
        setattr(small.config, KEY, {**about, "ranks": ranks(small)})
    return small


def _check(found: Mapping[str, nn.Module], names: Sequence[str], ratio: float) -> None:
    if not found:
        raise ValueError(f"No module ends with one of {list(names)}; name the Linears to compress in target_modules.")
    seen: dict[int, str] = {}
    for name, module in found.items():
        if type(module) is not nn.Linear:
            raise ValueError(f"Only Linears are compressed, and {name!r} is a {type(module).__name__}.")
        if id(module.weight) in seen:
            raise ValueError(f"{name!r} and {seen[id(module.weight)]!r} share one weight, which two pairs could not.")
        seen[id(module.weight)] = name
    if not 1 < ratio < math.inf:
        raise ValueError(f"ratio must be above 1, got {ratio}: each matrix is left 1/ratio of its entries.")


def expand(model: Any) -> Any:
    """A stock model of full size with the pairs multiplied out; the given one stays as it is."""
    large = deepcopy(model)
    for name in ranks(model):
        large.set_submodule(name, large.get_submodule(name).dense())
    if isinstance(large, PreTrainedModel) and KEY in vars(large.config):
        delattr(large.config, KEY)
    return large


def save_low_rank(model: Any, folder: str | Path) -> None:
    """Write what `compress` made of a model of transformers: weights under the names the model has, and a config that names the pairs.

    transformers' own `save_pretrained` would write the names that older versions had, which its loader turns back for modules it knows.

    Raises ValueError for a model that is not of transformers.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"{type(model).__name__} is no model of transformers, and a folder of a compressed one is read by its classes.")
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, Path(folder) / WEIGHTS, metadata={"format": "pt"})


def is_low_rank_folder(folder: str | Path) -> bool:
    """Whether a folder holds a base that was saved compressed."""
    file = Path(folder) / "config.json"
    try:
        return file.is_file() and KEY in json.loads(file.read_bytes())
    except ValueError:
        return False


def load_low_rank(folder: str | Path, **settings: Any) -> nn.Module:
    """What `save_low_rank` wrote, as an image classifier; `settings` go to its config (`num_labels`).

    transformers alone would put random Linears in the place of the pairs, with a warning; adapters refuse such a base by name.

    Raises ValueError where the weights are not those that its config describes.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **settings)
    model: Any = AutoModelForImageClassification.from_config(config)
    for name, rank in getattr(config, KEY)["ranks"].items():
        linear = model.get_submodule(name)
        model.set_submodule(name, LowRankLinear(linear.in_features, linear.out_features, rank, linear.bias is not None))
    state = load_file(Path(folder) / WEIGHTS)
    own = model.state_dict()
    fits = {key: tensor for key, tensor in state.items() if key in own and own[key].shape == tensor.shape}
    lacking = [key for key in own if key not in fits and not key.startswith(("classifier", "pooler"))]
    if lacking:
        raise ValueError(f"{folder}: {len(lacking)} tensors of the compressed base are missing or of another shape, e.g. {lacking[0]}.")
    model.load_state_dict(fits, strict=False)
    return model.to(next(iter(fits.values())).dtype).eval()
