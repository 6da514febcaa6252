"""Several adapters as one classifier: one backbone in memory, the members' probabilities averaged.

Shapes: K members, B batch, C classes, S image side.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from hf_cl.backbones.loading import shared_name
from hf_cl.hints import refuse
from hf_cl.hub.classifier import PROCESSOR_FILES, Classifier, read_config
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.predictions import Predictor
from hf_cl.pictures import to_rgb
from hf_cl.results.members import other_classes

Average = Literal["probability", "log"]
_NO_PART_OF_IT = ("processor_class", "image_processor_type", "_processor_class")
"""Entries of an image processor's file that change no pixel."""


def average_of(log_probabilities: Tensor, average: Average = "probability") -> Tensor:  # [K, B, C] -> [B, C]
    """Log-probabilities of the average of K members.

    "probability": `log (1/K sum_k p_k)`; "log": the mean of `log p_k`, renormalised. Of both the negative log-likelihood is at most the
    mean of the members' (Jensen's inequality; under "log" because the normaliser of a geometric mean is at most 1). Of one member
    "probability" gives its log-probabilities to the bit.
    """
    if average == "log":
        return log_probabilities.mean(0).log_softmax(-1)
    largest = log_probabilities.amax(0)  # [B, C]
    return largest + (log_probabilities - largest).exp().mean(0).log()


def disagreement(log_probabilities: Tensor) -> Tensor:  # [K, B, C] -> [B]
    """How far K members are apart on each image, in nats: the mean of `KL(p_k || mean of all p)` (section 3.4 of Lakshminarayanan, Pritzel,
    Blundell, NeurIPS 2017). 0 where all say the same; at most log K."""
    mean = average_of(log_probabilities)  # [B, C]
    return (log_probabilities.exp() * (log_probabilities - mean)).sum(-1).mean(0)


class Ensemble(Predictor):
    """Classifiers of the same classes on one backbone, whose probabilities are averaged; `hf_cl.load([...])` makes one.

    K members cost K forwards. `members` are the classifiers; `logits` are log-probabilities, so that their softmax is the average.
    Between the members lie the differences that chance makes, of the seeds say; the average has less of them (deep ensembles:
    Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017; for data that are fixed where compute is not, arXiv 2509.14786).

    Args:
        members: of the same classes, in the same order, with image processors that say the same.
        average: "probability" or "log" (`average_of`).
    """

    def __init__(self, members: Sequence[Classifier], average: Average = "probability") -> None:
        self.members = tuple(members)
        self.average: Average = average
        self.processor, self.class_names, self.device = members[0].processor, members[0].class_names, members[0].device

    @torch.no_grad()
    def logits(self, images: Sequence[Image.Image]) -> Tensor:
        """[B, C] float32 log-probabilities of the average, on the device, for B images of any size and mode."""
        pixels = self.processor(images=[to_rgb(image) for image in images], return_tensors="pt")["pixel_values"]  # [B, 3, S, S]
        return self.logits_of(pixels)

    def logits_of(self, pixels: Tensor) -> Tensor:
        return average_of(self.each(pixels), self.average)  # [B, C]

    def each(self, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [K, B, C]
        """What each member says, as log-probabilities."""
        return torch.stack([log_probabilities(member, pixels) for member in self.members])


def log_probabilities(member: Classifier, pixels: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, C]
    """Logarithms of what a member's head holds for the probabilities, at its own temperature; never -inf."""
    probabilities = member.probabilities(member.logits_of(pixels))
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def check_together(adapters: Sequence[str | Path], revision: str | None = None, average: str = "probability") -> None:
    """Raise ValueError, with all that is wrong, where adapters do not make an ensemble: fewer than two, one that is named twice, other
    classes, another backbone, an image processor that makes other pixels; or for an average that is none."""
    faults = [] if average in get_args(Average) else [f"average is one of {', '.join(get_args(Average))}, got {average!r}."]
    if len(adapters) < 2:
        refuse([*faults, f"An ensemble takes two adapters or more, got {len(adapters)}."])
    names = [str(adapter) for adapter in adapters]
    faults += [f"{name} is named twice; a member counts once." for name in dict.fromkeys(names) if names.count(name) > 1]
    folders = [adapter_folder(adapter, revision) for adapter in adapters]
    configs = [read_config(folder, name) for folder, name in zip(folders, names, strict=True)]
    for name, folder, config in zip(names[1:], folders[1:], configs[1:], strict=True):
        faults += [f"{name} does not go with {names[0]}: {fault}" for fault in _differences(folders[0], configs[0], folder, config)]
    refuse(faults)


def _differences(first_folder: Path, first: Any, folder: Path, config: Any) -> list[str]:
    found = []
    if config.class_names != first.class_names:
        found.append(other_classes(first.class_names, config.class_names))
    bases = [(shared_name(c.base_model_name_or_path or ""), c.revision) for c in (first, config)]
    if bases[0] != bases[1]:
        said = [f"{name}{f' at {revision}' if revision else ''}" for name, revision in bases]
        found.append(f"its backbone is {said[1]}, not {said[0]}.")
    if _pixels(first_folder) != _pixels(folder):
        found.append("its image processor makes other pixels, and the members are given the same ones.")
    return found


def _pixels(folder: Path) -> Any:
    """What an adapter's image processor says; None where none lies beside it."""
    path = next((folder / name for name in PROCESSOR_FILES if (folder / name).is_file()), None)
    if path is None:
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    values = values.get("image_processor", values)
    return {key: value for key, value in values.items() if key not in _NO_PART_OF_IT}
