"""The official CoACT numbers, and the tiny ViT they were computed on."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import ViTForImageClassification

from hf_cl.adapters import AsyncLoraConfig
from hf_cl.backbones import ImageClassifier
from hf_cl.checkpoints.tensors import named_parameters
from hf_cl.contracts import Context, Outputs, Session
from hf_cl.training.frozen import FrozenStates

FOLDER = Path(__file__).parent / "reference" / "coact"
NAMES = [f"class {i}" for i in range(10)]
BASE, WAY = 4, 3
"""Classes of session 0 and of each later session."""
LEARNING_RATE, ENCODER_FACTOR, INCREMENTAL_FACTOR = 0.1, 0.1, 0.01
DECAY = 0.999


@cache
def arrays() -> dict[str, Tensor]:
    with np.load(FOLDER / "arrays.npz", allow_pickle=False) as found:
        return {key: torch.from_numpy(np.asarray(found[key])) for key in found.files}


@cache
def tensors(tag: str) -> dict[str, Tensor]:
    """Tensors of one point of the official run, under the names of an adapter file."""
    return {key.split("/", 1)[1]: t for key, t in load_file(FOLDER / "trajectory.safetensors").items() if key.split("/")[0] == tag}


def trainable_after_unfreezing() -> set[str]:
    return set(json.loads((FOLDER / "trainable_after_unfreezing.json").read_text()))


def live(name: str) -> str:
    """Name in an adapter file -> name of the parameter."""
    name = re.sub(r"\.(async_lora_\w+)\.", r".\1.default.", name)
    return re.sub(r"^classifier\.", "classifier.modules_to_save.default.", name)


def vit() -> ViTForImageClassification:
    return ViTForImageClassification.from_pretrained(FOLDER / "tiny_vit", num_labels=0).eval()


class Student:
    """ASYNC_LORA on the tiny ViT, in eval mode as the official numbers were taken, with what a loop would put around it."""

    def __init__(self, num_classes: int) -> None:
        config = AsyncLoraConfig(unfreeze_from=2, unfreeze_epoch=1, ema_decay=DECAY, class_names=NAMES[:num_classes])
        self.config = config
        self.model = get_peft_model(vit(), config).eval()
        self.tuner = self.model.base_model
        self.classifier = ImageClassifier(self.model.get_base_model(), self.tuner.head_wrapper())
        accelerator = SimpleNamespace(autocast=nullcontext, device=torch.device("cpu"))
        self.frozen = FrozenStates(self.classifier, accelerator, self.tuner)

    @property
    def head(self):
        return self.tuner.head_wrapper().head("default")

    def load(self, found: dict[str, Tensor]) -> None:
        """Put values in place; rows of classes that are not yet there are cut off."""
        rows = self.head.num_classes
        with torch.no_grad():
            for name, tensor in found.items():
                self.parameter(name).copy_(tensor[:rows] if name == "classifier.weight" else tensor)

    def load_teacher(self, found: dict[str, Tensor]) -> None:
        teacher = {live(name): tensor.clone() for name, tensor in found.items()}
        self.tuner.load_training_state({"unfrozen": True, "states": {"teacher": teacher, "base": None, "base_teacher": None}})

    def parameter(self, name: str) -> Tensor:
        return self.tuner.model.get_parameter(live(name))

    def named_parameters(self, terms=()):
        return named_parameters(self.model, self.tuner.prefix, self.head, terms)

    def context(self, tag: str, session: Session, given: dict[str, Tensor] | None = None) -> Context:
        """The batch `tag` (q: first view, k: last view). `given`: recorded embeddings that stand for a role."""
        views = [arrays()[f"{tag}images_{view}"] for view in "qk"]
        labels = arrays()[f"{tag}labels"]

        def frozen(role: str, view: int = -1) -> Outputs:
            if given and role in given:
                return Outputs(features=given[role], logits=given[role], embedding=given[role])
            return self.frozen.run(role, views[view])

        batch = {"labels": labels, "index": torch.arange(len(labels))}
        return Context(batch, (self.classifier.outputs(views[0]),), session, epoch=0, step=0, frozen=frozen)


def session(number: int) -> Session:
    seen = BASE + WAY * number
    new = BASE if number == 0 else WAY
    return Session(number, tuple(NAMES[:seen]), tuple(NAMES[seen - new : seen]), train=None, tests=())


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference relative to max(1, |expected|)."""
    difference = float((found.detach() - expected).abs().max() / max(1.0, float(expected.abs().max())))
    assert difference <= tolerance, difference
