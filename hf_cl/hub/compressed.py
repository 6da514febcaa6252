"""From a trained LOW_RANK adapter to the smaller base that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.utils import CONFIG_NAME
from torch import nn

from hf_cl.adapters import LowRankConfig
from hf_cl.backbones import load_backbone
from hf_cl.backbones.loading import shared_name
from hf_cl.backbones.low_rank import with_pairs
from hf_cl.hub.classifier import Classifier
from hf_cl.hub.load import load


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder of this machine is a run's or an adapter's, and no base."""
    return (Path(folder) / "adapters").is_dir() or (Path(folder) / CONFIG_NAME).is_file()


def compressed_base(adapter: str | Path, *, revision: str | None = None) -> tuple[nn.Module, nn.Module, Any]:
    """The base that the adapter was trained on, the same with the adapter's factors, and the image processor.

    Args:
        adapter, revision: as for `hf_cl.load`.

    Raises ValueError for an adapter of another type, for one on both towers of a CLIP-like model, and what `load` raises.
    """
    classifier: Classifier = load(adapter, revision=revision, device="cpu")
    config: Any = classifier.model.peft_config["default"]
    if not isinstance(config, LowRankConfig):
        raise ValueError(
            f"{adapter} is an adapter of the type {config.peft_type.value}, which holds no factors of its base. Compress the base itself, "
            "or train the factors first: hf-cl train pela."
        )
    if config.has_text_head:
        raise ValueError(f"{adapter} holds factors of both towers, and a base to put adapters on is an image tower alone.")
    tuner: Any = classifier.model.base_model
    name = shared_name(str(config.base_model_name_or_path))
    large = load_backbone(name, revision=config.revision)
    about = {"ratio": config.ratio, "source": name, "revision": config.revision, "trained": True}
    return large, with_pairs(large, tuner.pairs("default"), **about), classifier.processor
