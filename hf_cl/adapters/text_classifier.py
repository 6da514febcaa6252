"""The text head at work: class names, through the text tower of the model with the adapter inside, are the rows of the classifier.

Shapes: B images, C classes, c classes that are computed, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl._peft import BaseTunerLayer
from hf_cl.adapters.class_tokens import ClassTokens
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.pseudo_words import Words, words_of
from hf_cl.adapters.towers import encode_texts
from hf_cl.adapters.vocabulary import vocabulary_words
from hf_cl.contracts import Head
from hf_cl.heads.text import TextHeadSpec
from hf_cl.hints import nearest


@dataclass(frozen=True)
class _Cached:
    """Text features and the state of the model that gave them."""

    features: Tensor  # [c, E]
    state: tuple[Any, ...]
    tensors: list[tuple[Tensor, int]]

    def fits(self, state: tuple[Any, ...], tensors: list[tuple[Tensor, int]]) -> bool:
        """Whether these are still the features; tensors are compared by identity and version, so that nothing waits for the device."""
        if self.state != state or len(self.tensors) != len(tensors):
            return False
        return all(a is b and before == now for (a, before), (b, now) in zip(self.tensors, tensors, strict=True))

    @property
    def may_train(self) -> bool:
        """Whether an optimizer may change these tensors; PyTorch's fused ones do so without counting it as a change."""
        return any(tensor.requires_grad for tensor, _ in self.tensors)


_KEPT = 4
"""States whose text features are kept at once: the present one, and the frozen ones that losses read."""


class TextHead(Head):
    """Logits are the scaled cosine of an image embedding and the embedding of each class's text (CLIP, Radford et al., ICML 2021).

    It has no weights: it grows by names. In training the texts are encoded anew in each step, since the prompts move them, and only those
    of `training_classes`; the other columns are -inf. In evaluation, without gradient, all classes are encoded once and kept until a
    weight, the active adapter or a name changes, or a training step is made. (A weight written through `.data` needs `clear_cache`.)

    A class that has learned words (`hf_cl.adapters.pseudo_words`) is read with these in the place of its name.

    Args:
        model: the base with the adapter inside.
        config: the adapter's config; its class names are the head's, and grow with the tuner.
        tokenizer: the base's own.

    Raises ValueError for a class name that is too long for the text context, and for what `TextHeadSpec` refuses.
    """

    def __init__(self, model: nn.Module, config: HeadedConfig, tokenizer: Any) -> None:
        super().__init__()
        self.config, self.spec = config, TextHeadSpec.of(config.head or {})
        self._model = (model,)  # a tuple: the head must not register the model it belongs to
        self.tokens = ClassTokens(model, tokenizer, config.reserved_text_positions(model))
        self.words = words_of(model, config)
        """Learned words; a module of the base, so that they travel in the adapter. None under a head without."""
        if self.words is not None:
            self.tokens.mark(self.spec.template, self.spec.words_per_class)
        self._known: list[tuple[Tensor, int, frozenset[int]]] = []
        self.training_classes: range | None = None
        """Classes whose columns are computed in training; None: all. Set it to the session's where no loss reads the others."""
        self._unseen: list[str] = []
        self._cache: list[_Cached] = []
        self.tokens.add(self.class_names, self.spec.texts(self.class_names))

    @property
    def model(self) -> nn.Module:
        """The base whose text tower it is."""
        return self._model[0]

    @property
    def class_names(self) -> list[str]:
        """The classes that have been taught, in order of arrival."""
        return self.config.class_names or []

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.class_names)

    def grow(self, class_names: Sequence[str]) -> None:
        """Read the names of classes that the adapter's config is going to have; no tensor changes.

        Raises ValueError for names that are empty, too long, or say the same as another one.
        """
        if self._unseen:
            raise ValueError("The head already names classes that tests alone use; it cannot grow behind them.")
        texts = self.spec.texts([*self.class_names, *class_names])[self.num_classes :]
        self.tokens.add(class_names, texts)
        self.clear_cache()

    def name_unseen(self, class_names: Sequence[str]) -> None:
        """Add columns, in evaluation alone, for classes that are never taught (base-to-novel, other data sets); the config stays."""
        texts = self.spec.texts([*self.class_names, *self._unseen, *class_names])[self.num_classes + len(self._unseen) :]
        self.tokens.add(class_names, texts)
        self._unseen += class_names
        self.clear_cache()

    def forward(self, features: Tensor) -> Tensor:  # [B, E] -> [B, C]
        if self.training:
            self._cache = [cached for cached in self._cache if not cached.may_train]
        total = self.num_classes + (0 if self.training else len(self._unseen))
        classes = self.training_classes if self.training and self.training_classes is not None else range(total)
        with torch.autocast(features.device.type, enabled=False):
            image = unit(features)  # [B, E]
        text = self.text_features(classes)  # [c, E]
        with torch.autocast(features.device.type, enabled=False):  # half precision would move logits of this scale by tenths
            logits = self.scaled(image @ text.T)  # [B, c]
            logits = logits if self.training else self.calibrated(logits)
        return F.pad(logits, (classes.start, total - classes.stop), value=-torch.inf)  # [B, C]

    def scaled(self, cosine: Tensor) -> Tensor:
        """Logits of the cosines between images and texts."""
        if self.spec.logit_scale != "model":
            return cosine * self.spec.logit_scale
        model: Any = self._model[0]
        bias = model.logit_bias if "logit_bias" in dict(model.named_parameters(recurse=False)) else 0.0
        return cosine * model.logit_scale.exp() + bias

    def calibrated(self, logits: Tensor) -> Tensor:
        """Logits as eval mode has them: divided by the config's temperature."""
        return logits if self.config.temperature is None else logits / self.config.temperature

    def text_features(self, classes: range) -> Tensor:
        """[c, E] embeddings of the classes' texts at unit length, in the order of `classes`; float32 on a half-precision base."""
        if self.training or torch.is_grad_enabled():
            return self._encode(classes)
        return self._from_cache(classes)  # pyright: ignore

    def _encode(self, classes: range) -> Tensor:
        model = self._model[0]
        device = next(model.parameters()).device
        batch = self.tokens.batch(classes, device, self.learned)  # pyright: ignore
        embeddings = encode_texts(model, batch._replace(words=self._words_in(classes)))  # [c, E]
        with torch.autocast(device.type, enabled=False):
            return unit(embeddings)  # [c, E]

    @property
    def learned(self) -> frozenset[int]:
        """The classes that have learned words. Waits for the device where they have changed."""
        if self.words is None:
            return frozenset()
        vectors = self.words.vectors
        version = 0 if vectors.is_inference() else vectors._version
        for known, then, found in self._known:
            if known is vectors and then == version:
                return found
        found = frozenset(torch.nonzero(~vectors.isnan().flatten(1).any(1)).flatten().tolist())
        self._known = [(vectors, version, found), *self._known[:1]]  # the present ones, and those of a frozen state
        return found

    def _words_in(self, classes: range) -> Words | None:
        """Those of some classes. One that came after the state which runs goes by its name there."""
        if self.words is None or self.learned.isdisjoint(classes):
            return None
        own = self.words.vectors[classes.start : classes.stop]  # [at most c, W, D]
        vectors = F.pad(own, (0, 0, 0, 0, 0, len(classes) - len(own)), value=torch.nan)  # [c, W, D]
        return Words(vectors.nan_to_num(), ~vectors.isnan().flatten(1).any(1), self.tokens.marker)

    @torch.compiler.disable  # pyright: ignore[reportArgumentType]
    def _from_cache(self, classes: range) -> Tensor:
        state, tensors = _fingerprint(self._model[0], classes)
        if self.words is not None:
            tensors = [*tensors, (self.words.vectors, self.words.vectors._version)]
        for cached in self._cache:
            if cached.fits(state, tensors):
                return cached.features
        cached = _Cached(self._encode(classes), state, tensors)
        self._cache = [cached, *self._cache[: _KEPT - 1]]
        return cached.features

    def clear_cache(self) -> None:
        """Forget text features of evaluation."""
        self._cache = []


def check_class_names(model: nn.Module, config: HeadedConfig, tokenizer: Any, class_names: Sequence[str]) -> None:
    """Look at the class names of all sessions before the first one trains.

    Args:
        model: the base with two towers; the adapter need not be inside yet.
        config: the adapter's, with a text head.
        tokenizer: the base's own.
        class_names: every class that is going to be taught or tested.

    Raises ValueError, naming the class, for a name that is empty, says the same as another one, or is too long for the text context, and
    for learned words that do not fit there, or of a class that does not come.
    """
    spec, tokens = TextHeadSpec.of(config.head or {}), ClassTokens(model, tokenizer, config.reserved_text_positions(model))
    tokens.add(class_names, spec.texts(class_names))
    if not isinstance(spec.learned_words, str):
        for name in spec.learned_words:
            if name not in class_names:
                raise ValueError(f"learned_words names {name!r}, which is none of the classes.{nearest(name, class_names)}")
    words = vocabulary_words(tokenizer) if spec.learns_words else {}
    if spec.learns_words and any(spec.wants_words(name, words) for name in class_names):
        tokens.mark(spec.template, spec.words_per_class)


def unit(embeddings: Tensor) -> Tensor:
    """At unit length, in float32 or wider."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)


def _fingerprint(model: nn.Module, classes: range) -> tuple[tuple[Any, ...], list[tuple[Tensor, int]]]:
    """What text features depend on: classes, device, precision, which adapters are active, off or merged, and the text tower's tensors."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    adapters = tuple((layer.disable_adapters, tuple(layer.active_adapters), tuple(layer.merged_adapters)) for layer in layers)
    device = next(model.parameters()).device
    state = (classes, adapters, device, torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type))
    off: set[int] = set()  # tensors of adapters that are switched off may train on: the zero-shot features stay
    for layer in layers:
        if layer.disable_adapters:
            off |= {id(p) for name in layer.adapter_layer_names for p in getattr(layer, name).parameters()}
    texts = (p for name, p in model.named_parameters() if not name.startswith(("vision_model.", "visual.")) and id(p) not in off)
    return state, [(tensor, tensor._version) for tensor in texts]
