"""A base and its image processor, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError  # only its name: what transformers raises for a pickle that is more than tensors
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

from hf_cl.backbones.low_rank import is_low_rank_folder, load_low_rank
from hf_cl.backbones.open_clip import OPEN_CLIP_PREFIX, load_open_clip, open_clip_processor

DEMO, DEMO_CLIP = "demo", "demo_clip"
SHIPPED = {DEMO: "vit_tiny_demo", DEMO_CLIP: "clip_tiny_demo"}
"""Name of a base that ships with hf_cl -> its folder in `hf_cl/demo`."""


def demo_backbone(name: str = DEMO) -> Path:
    """Folder of a small base that ships with hf_cl: demos and tests without a network.

    Args:
        name: `demo`, a ViT (2.7 M parameters, 48 px), or `demo_clip`, a CLIP (6.2 M parameters, 48 px).

    Raises ValueError for another name.
    """
    if name not in SHIPPED:
        raise ValueError(f"No base {name!r} ships with hf_cl; {' and '.join(SHIPPED)} do.")
    return Path(str(files("hf_cl"))) / "demo" / SHIPPED[name]


def shared_name(base: str) -> str:
    """`demo` or `demo_clip` for a base that ships with hf_cl, wherever that is installed; any other base's name as it is."""
    return next((name for name in SHIPPED if Path(base).parts[-3:] == demo_backbone(name).parts[-3:]), base)


def place_of(name: str) -> str:
    """What transformers finds the base `name` under: the folder of one that ships with hf_cl, else the name."""
    return str(demo_backbone(name)) if name in SHIPPED else name


def load_backbone(name: str, *, revision: str | None = None) -> nn.Module:
    """A base without a classifier of its own: the adapter brings the head.

    Args:
        name: a Hub id or folder of any `AutoModelForImageClassification` architecture, `open_clip:<model>/<weights>`,
            `demo`, or `demo_clip`, of which this is the image tower, or a folder that `hf-cl compress` wrote.
        revision: the Hub revision of the base.

    Raises ValueError, naming what was asked, where there is no such base.
    """
    if name.startswith(OPEN_CLIP_PREFIX):
        return load_open_clip(name.removeprefix(OPEN_CLIP_PREFIX))
    where = place_of(name)
    if is_low_rank_folder(where):
        return load_low_rank(where, num_labels=0)
    try:
        kind = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False).model_type
        labels = 1 if kind.startswith("siglip") else 0  # transformers 5.23 cannot build SigLIP's class without labels
        return AutoModelForImageClassification.from_pretrained(
            where, revision=revision, num_labels=labels, ignore_mismatched_sizes=True, trust_remote_code=False
        )
    except OSError as error:
        raise ValueError(_not_found("backbone", name)) from error
    except (UnpicklingError, SafetensorError) as error:
        raise ValueError(weights_refused(name)) from error


def load_processor(name: str, *, revision: str | None = None) -> Any:
    """The image processor that belongs to a base; evaluation uses it, and it is saved beside the adapter."""
    if name.startswith(OPEN_CLIP_PREFIX):
        return open_clip_processor(name.removeprefix(OPEN_CLIP_PREFIX))
    where = place_of(name)
    try:
        return AutoImageProcessor.from_pretrained(where, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise ValueError(_not_found("image processor", name)) from error


def weights_refused(name: str) -> str:
    """What to say of a base whose weights torch's restricted unpickler or safetensors has refused."""
    return f"The weights of {name!r} are damaged, or hold more than tensors; nothing of them was run. Ask for the base as safetensors."


def _not_found(what: str, name: str) -> str:
    return (
        f"No {what} {name!r}: it is no local folder, and the Hub did not give it. Check the name, the network, "
        "HF_TOKEN for a gated repository, or HF_HUB_OFFLINE; `demo` and `demo_clip` need no network."
    )
