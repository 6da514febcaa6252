"""How a word is found for a class from its images: images become a token embedding (after Zhou et al., ProFusion, arXiv 2305.13579).

Shapes: n images, C classes, c classes that learn words, V words of the vocabulary, W words of a class, D width of the text tower's
embeddings, E embedding width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hf_cl._peft import bypassed
from hf_cl.adapters.class_tokens import ClassTokens
from hf_cl.adapters.modes import evaluating
from hf_cl.adapters.pseudo_words import Words, token_embedding
from hf_cl.adapters.text_classifier import TextHead, unit
from hf_cl.adapters.towers import encode_texts
from hf_cl.adapters.vocabulary import vocabulary_words
from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.fitted import as_on_rank_0

logger = logging.getLogger(__name__)

FREQUENT = 3000
"""Words of the vocabulary that are looked at, the most frequent ones."""
NEAREST, TAU = 4, 0.05
"""How many of them a learned word begins between, and how sharply the nearest one counts."""
SCALE = 20.0
"""Of the cosines under the cross-entropy that finds the words."""
ALIKE = 0.999
"""Two classes whose texts have a cosine above this are told apart by nothing."""
SHOWN = 3
"""Real words that the report names beside a learned one."""
_AT_ONCE = 64
"""Texts of one forward."""


@dataclass(frozen=True)
class Vocabulary:
    """What the text tower says of "template with one word"."""

    words: list[str]
    embeddings: Tensor  # [V, D]
    features: Tensor  # [V, E] at unit length

    def near(self, features: Tensor, count: int) -> list[list[str]]:
        """[c, E] -> for each the `count` words whose texts are nearest, nearest first."""
        found = (features @ self.features.T).topk(min(count, len(self.words))).indices.tolist()
        return [[self.words[i] for i in row] for row in found]


def start_between(images: Tensor, features: Tensor, embeddings: Tensor, k: int = NEAREST, tau: float = TAU) -> Tensor:
    """[D] where a word begins: the mean of the k nearest words' embeddings, weighted by the softmax of their cosines over tau.

    Args:
        images: [n, E] of one class, at unit length.
        features: [V, E] of the vocabulary's texts.
        embeddings: [V, D] of its words.
    """
    cosines = F.normalize(features, dim=-1) @ F.normalize(images.mean(0), dim=-1)  # [V]
    order = torch.sort(cosines, descending=True, stable=True).indices[:k]
    return (cosines[order] / tau).softmax(0).to(embeddings) @ embeddings[order]


def word_loss(
    cosines: Tensor,
    labels: Tensor,
    words: Tensor,
    start: Tensor,
    *,
    pull: float = 0.0,
    logits: Callable[[Tensor], Tensor] | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """What a learned word minimises: cross-entropy of the images among the classes, and its squared distance to where it began.

    Args:
        cosines: [n, C] between images and the classes' texts.
        labels: [n]
        words, start: [c, W, D]
        pull: weight of the distance; 0 is the paper's "regularisation-free".
        logits: of a base that was trained with a sigmoid for each pair (SigLIP, Zhai et al., ICCV 2023), which then takes the place of the
            cross-entropy; None: 20 times the cosine.
        weights: [n] of the images; None: all the same.
    """
    if logits is None:
        losses = F.cross_entropy(SCALE * cosines, labels, reduction="none")  # [n]
    else:
        signs = 2.0 * F.one_hot(labels, cosines.shape[1]) - 1.0  # [n, C]
        losses = -F.logsigmoid(signs * logits(cosines)).sum(1)  # [n]
    loss = losses.mean() if weights is None else (weights * losses).sum() / weights.sum()
    return loss + pull * (words - start).square().sum() if pull else loss


class LearnedWordsHead(TextHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """A text head that finds words for new classes when their session begins.

    It looks at the session's images through the untouched base (the adapter bypassed), and moves the embeddings of the new words alone, by
    Adam: cross-entropy among all classes seen so far, whose other texts stand still. Images of earlier classes are gone; the mean of each,
    which the adapter keeps, counts as much as the images of a new class. (Without them the new words learn to be near every image.)
    Prompts and weights that train afterwards take the words as they take token ids. Words of earlier classes are never touched. A class
    without images goes by its name.
    """

    name = "pseudo_words"
    _vocabulary: Vocabulary | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        vocabulary = vocabulary_words(self.tokens.tokenizer)
        new = range(session.first_new_class, len(session.class_names))
        wanted = [c for c in new if self.spec.wants_words(session.class_names[c], vocabulary)]
        if self.words is None:
            return
        data = trainer.features_of(session.train, role="pretrained")
        own = data.labels >= session.own.start
        if trainer.accelerator.is_main_process:
            self.learn(data.features[own], data.labels[own], wanted)
        if trainer.accelerator.num_processes > 1:
            vectors = self.words.vectors.clone()
            as_on_rank_0([vectors, self.words.images])
            self.words.write(range(len(vectors)), vectors)

    @torch.no_grad()
    def learn(self, features: Tensor, labels: Tensor, classes: Sequence[int]) -> None:
        """Find words for some classes and write them down, and the mean image of every class that is here.

        Args:
            features: [n, E] image embeddings through the untouched base.
            labels: [n] positions of their classes.
            classes: those that get words; one without an image goes by its name, which a warning says.
        """
        assert self.words is not None  # the head was made with room for them
        present = set(labels.tolist())
        for c in classes:
            if c not in present:
                logger.warning("The class %r has no image to learn a word from; it goes by its name.", self.class_names[c])
        wanted = [c for c in classes if c in present]
        images = unit(features)  # [n, E]
        self.words.remember(images, labels)
        if not wanted:
            return
        with evaluating(self.model), bypassed(self.model):
            texts: Tensor = self._from_cache(range(self.num_classes))  # pyright: ignore # [C, E]
            start = torch.stack([self._start(c, images[labels == c]) for c in wanted])  # [c, W, D]
            self.words.write(wanted, self._found(start, images, labels, texts, wanted))
        self._warn_of_twins(wanted)

    def _start(self, label: int, images: Tensor) -> Tensor:
        """[W, D]"""
        embedding, count = token_embedding(self.model).weight.float(), self.spec.words_per_class
        if self.spec.words_start == "nearest":
            vocabulary = self.vocabulary
            return start_between(images, vocabulary.features, vocabulary.embeddings).expand(count, -1)
        ids = torch.tensor(self.tokens.name_ids(label), device=embedding.device)
        return F.adaptive_avg_pool1d(embedding[ids].T, count).T  # a name of other length is averaged, or repeated

    def _found(self, start: Tensor, images: Tensor, labels: Tensor, texts: Tensor, classes: Sequence[int]) -> Tensor:
        """[c, W, D] by Adam from `start`."""
        model: Any = self.model
        sigmoid = "logit_bias" in dict(model.named_parameters(recurse=False)) and model.logit_bias is not None
        logits = (lambda cosines: cosines * model.logit_scale.exp() + model.logit_bias) if sigmoid else None
        columns, images, labels, weights = self._judged(images, labels)
        texts, where = texts[columns], torch.searchsorted(columns, torch.tensor(classes, device=columns.device))
        words = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([words], lr=self.spec.words_lr)
        for _ in range(self.spec.words_steps):
            with torch.enable_grad():
                all_texts = texts.index_copy(0, where, self._texts_with(words))  # [C', E]
                loss = word_loss(images @ all_texts.T, labels, words, start, pull=self.spec.words_pull, logits=logits, weights=weights)
            (words.grad,) = torch.autograd.grad(loss, words)
            optimizer.step()
        return words.detach()

    def _judged(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What words are told apart on: the classes that have shown images, [C'] in rising order; [n + k, E] the images that are here and
        the means of k earlier classes; their places [n + k] among the classes, and weights [n + k], by which every class counts alike on
        average."""
        assert self.words is not None
        labels = labels.to(images.device)
        before = self.words.earlier(labels).to(images.device)  # [k]
        columns = torch.cat([labels.unique(), before]).sort().values  # [C']
        weights = images.new_ones(len(labels) + len(before))
        weights[len(labels) :] = len(labels) / (len(columns) - len(before))  # the images that a class has here
        rows = torch.cat([images, unit(self.words.images[before])])  # [n + k, E]
        return columns, rows, torch.searchsorted(columns, torch.cat([labels, before])), weights

    def _texts_with(self, vectors: Tensor) -> Tensor:
        """[c, W, D] -> [c, E] texts of the template with these words, at unit length. Many are computed again for their gradient."""
        parts = vectors.split(_AT_ONCE)
        if len(parts) == 1:
            return self._text_with(vectors)
        return torch.cat([checkpoint(self._text_with, part, use_reentrant=False) for part in parts])  # pyright: ignore

    def _text_with(self, vectors: Tensor) -> Tensor:
        learned = torch.ones(len(vectors), dtype=torch.bool, device=vectors.device)
        batch = self.tokens.marked_batch(len(vectors), vectors.device)
        return unit(encode_texts(self.model, batch._replace(words=Words(vectors, learned, self.tokens.marker))))

    @property
    def vocabulary(self) -> Vocabulary:
        """The most frequent words in the template, through the untouched base; computed once."""
        if self._vocabulary is None:
            model = self.model
            tokens = ClassTokens(model, self.tokens.tokenizer, self.tokens.reserved)
            tokens.mark(self.spec.template, 1)
            words = dict([*vocabulary_words(self.tokens.tokenizer).items()][:FREQUENT])
            weight = token_embedding(model).weight
            ids = torch.tensor([*words.values()])
            with torch.no_grad(), evaluating(model), bypassed(model):
                batches = [tokens.one_word_texts(part, weight.device) for part in _chunks([*words.values()])]
                features = torch.cat([unit(encode_texts(model, batch)) for batch in batches])  # [V, E]
            self._vocabulary = Vocabulary([*words], weight.detach()[ids.to(weight.device)].float(), features)
        return self._vocabulary

    @torch.no_grad()
    def near_words(self, count: int = SHOWN) -> dict[str, list[str]]:
        """Class name -> the real words nearest to its learned one, for every class that has one."""
        classes = sorted(self.learned)
        if self.words is None or not classes:
            return {}
        with evaluating(self.model), bypassed(self.model):
            features = self._texts_with(self.words.vectors[classes])  # [c, E]
        near = self.vocabulary.near(features, count)
        return {self.class_names[c]: words for c, words in zip(classes, near, strict=True)}

    def report(self) -> dict[str, Any]:
        """Real words near the learned ones, to see whether they make sense."""
        return {name: ", ".join(words) for name, words in self.near_words().items()}

    def _warn_of_twins(self, classes: Sequence[int]) -> None:
        with evaluating(self.model), bypassed(self.model):
            texts: Tensor = self._from_cache(range(self.num_classes))  # pyright: ignore # [C, E]
        for c in classes:
            near = (texts @ texts[c]).tolist()
            twin = next((other for other, cosine in enumerate(near) if cosine > ALIKE and other != c), None)
            if twin is not None:
                logger.warning(
                    "The classes %r and %r ended at nearly the same text: their learned words do not tell them apart.",
                    *(self.class_names[c], self.class_names[twin]),
                )


def _chunks(ids: Sequence[int]) -> list[Sequence[int]]:
    return [ids[i : i + _AT_ONCE] for i in range(0, len(ids), _AT_ONCE)]
