"""The sessions of an adapter as models that answer: one backbone in memory, one small adapter per session that was asked for.

Shapes: B batch, C classes of a session, S image side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, is_offline_mode
from PIL import Image

from hf_cl.backbones import AnyClassifier, classifier_of
from hf_cl.hub.access import UNREACHED, attempt, explained
from hf_cl.hub.card import is_hub_id
from hf_cl.hub.fetch import adapter_folder, session_folders
from hf_cl.hub.load import load
from hf_cl.hub.predictions import Prediction
from hf_cl.memory.novelty import NoveltyScore, read_novelty
from hf_cl.results.display import display_name
from hf_cl.scenarios import to_rgb

FIRST = "default"
"""The adapter's name inside peft of the session that was loaded first."""
ONLY = "this adapter"
"""What a session is called where there is no other."""


@dataclass(frozen=True)
class Place:
    """Where the adapter of a session is."""

    adapter: str
    """A folder, or a Hub id."""
    revision: str | None = None


def sessions_of(adapter: str) -> dict[str, Place]:
    """Every session of a run folder or of a repository on the Hub, in order, by its revision's name; of one adapter's folder, itself.

    Raises ValueError for a run folder without an adapter, and HubError where the Hub does not answer.
    """
    here = Path(adapter)
    if (here / "adapters").is_dir():
        return {folder.name: Place(str(folder)) for folder in session_folders(here)}
    if here.is_dir() or not is_hub_id(adapter) or is_offline_mode():
        return {ONLY: Place(adapter)}
    try:
        refs = attempt(lambda: HfApi().list_repo_refs(adapter))
    except UNREACHED as error:
        raise explained(error, f"asking for the sessions of {adapter}") from error
    names = _in_order(ref.name for ref in [*refs.branches, *refs.tags])
    return {name: Place(adapter, name) for name in names} or {ONLY: Place(adapter)}


def _in_order(names: Iterable[str]) -> list[str]:
    numbers = {name: int(number) for name in names if (number := name.removeprefix("session-")).isdigit() and name != number}
    return sorted(numbers, key=lambda name: numbers[name])


class SessionModels:
    """Answers as the model was after each session. The last one is loaded at once, the others when they are asked for.

    Args:
        places: from `sessions_of`.

    Raises ValueError where there is no adapter of hf_cl, or its base cannot be found.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
        self.places = dict(places)
        self.names = list(places)
        last = self.places[self.names[-1]]
        self._first = load(last.adapter, revision=last.revision)
        self.model: Any = self._first.model
        self._classifiers: dict[str, AnyClassifier] = {}
        self._novelty: dict[str, NoveltyScore | None] = {}
        self._lock = threading.Lock()  # the page answers several readers, and the active adapter is one

    def classes_of(self, session: str) -> list[str]:
        """The classes known after a session, in order of arrival."""
        with self._lock:
            self._activate(session)
            return list(self._config(session).class_names)

    def predict(self, session: str, image: Image.Image, top_k: int = 5) -> list[Prediction]:
        """The `top_k` most probable classes after a session, best first."""
        return self.judge(session, image, top_k)[0]

    @torch.no_grad()
    def judge(self, session: str, image: Image.Image, top_k: int = 5) -> tuple[list[Prediction], bool]:
        """The same, and whether the picture looks like none of the classes; False where no novelty score lies beside the adapter."""
        pixels = self._first.processor(images=[to_rgb(image)], return_tensors="pt")["pixel_values"]  # [1, 3, S, S]
        with self._lock:
            classifier = self._activate(session)
            outputs = classifier.outputs(pixels.to(self._first.device))
            logits = outputs.logits.float()  # [1, C]
            probabilities = classifier.head.probabilities(logits)[0]  # [C]
            class_names = self._config(session).class_names
            embedding = classifier.head.embed(outputs.features)
            novelty = self._novelty[session]
            unknown = novelty is not None and bool(
                novelty(embedding, logits * (self._config(session).temperature or 1.0)) > novelty.threshold
            )
        scores, classes = probabilities.topk(min(top_k, len(class_names)))
        return [Prediction(class_names[c], score) for c, score in zip(classes.tolist(), scores.tolist(), strict=True)], unknown

    def _activate(self, session: str) -> AnyClassifier:
        name = self._adapter_name(session)
        if name not in self.model.peft_config:
            place = self.places[session]
            self.model.load_adapter(str(adapter_folder(place.adapter, place.revision)), adapter_name=name)
            self.model.to(self._first.device).eval()
        self.model.set_adapter(name)
        if session not in self._classifiers:
            place, config = self.places[session], self._config(session)
            self._novelty[session] = read_novelty(adapter_folder(place.adapter, place.revision), len(config.class_names))
            self._classifiers[session] = classifier_of(self.model, self._first.tokenizer, name).eval()
        return self._classifiers[session]

    def _adapter_name(self, session: str) -> str:
        return FIRST if session == self.names[-1] else session

    def _config(self, session: str) -> Any:
        return self.model.peft_config[self._adapter_name(session)]


def scores_by_name(predictions: Sequence[Prediction]) -> dict[str, float]:
    """Names as people read them with their scores; names that look the same on one line are still two."""
    shown: dict[str, float] = {}
    for prediction in predictions:
        name = display_name(prediction.name)
        while name in shown:
            name += " (another)"
        shown[name] = prediction.score
    return shown
