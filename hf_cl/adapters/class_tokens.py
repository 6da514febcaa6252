"""The texts of classes, tokenised once each.

Shapes: C classes, T text positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_cl.adapters.towers import TextBatch, context_length, pads_to_context
from hf_cl.adapters.vocabulary import vocabulary_words

_TRIED = 32
"""Words that are tried as a marker of places."""


class ClassTokens:
    """Token ids of class texts.

    Args:
        model: the base with two towers.
        tokenizer: the base's own: of transformers, or of open_clip.
        reserved: positions of the text context that are kept for prompts.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, reserved: int) -> None:
        self.tokenizer, self.reserved = tokenizer, reserved
        self.context, self.pad_to_context = context_length(model), pads_to_context(model)
        self.rows: list[list[int]] = []
        self._lengths: list[int] = []
        self.marked: list[int] = []
        """Of a class with learned words, the same for all of them; empty where `mark` was not called."""
        self.marker = -1
        """The id that keeps a place for each learned word."""
        self._behind = 0
        """Tokens behind the words."""
        self._batches: dict[tuple[range, torch.device, frozenset[int]], TextBatch] = {}

    def mark(self, template: str, count: int) -> None:
        """Make the ids of a class that has `count` learned words in the place of its name.

        Raises ValueError where they are more than the context holds, or the tokenizer has no word to mark their places with.
        """
        around = self._ids([template.replace("{}", "")])[0][0]
        for word, marker in [*vocabulary_words(self.tokenizer).items()][:_TRIED]:
            (row,), (length,) = self._ids([template.replace("{}", " ".join([word] * count))])
            if length > self.context - self.reserved:
                raise ValueError(
                    f"words_per_class {count} is too many: with the template {template!r} they are {length} tokens, and the model reads "
                    f"{self.context}{self._kept}."
                )
            if marker not in around and row.count(marker) == count:
                self.marked, self.marker = row, marker
                self._behind = length - row.index(marker) - count
                return
        raise ValueError(f"learned_words: no word of the base's tokenizer is one token in the template {template!r}. Take another one.")

    def add(self, class_names: Sequence[str], texts: Sequence[str]) -> None:
        """Tokenise the texts of further classes.

        Raises ValueError, naming the class, for a text that is longer than the context.
        """
        rows, lengths = self._ids(texts)
        for name, text, length in zip(class_names, texts, lengths, strict=True):
            if length > self.context - self.reserved:
                raise ValueError(
                    f"The class name {name!r} is too long: its text {text!r} has {length} tokens, and the model reads "
                    f"{self.context}{self._kept}. Shorten the name or the template."
                )
        self.rows += rows
        self._lengths += lengths
        self._batches.clear()

    def longest(self, learned: frozenset[int]) -> int:
        """Tokens of the longest text, padding included where the tower wants it."""
        if self.pad_to_context:
            return self.context
        return max(len(self.marked) if c in learned else len(row) for c, row in enumerate(self.rows))

    def all_texts(self, length: int, learned: frozenset[int]) -> TextBatch:
        """The texts of all classes, padded to `length`, on the CPU."""
        return self._padded([self.marked if c in learned else row for c, row in enumerate(self.rows)], torch.device("cpu"), length)

    def name_ids(self, label: int) -> list[int]:
        """Those of a class's name in its text."""
        return self.rows[label][self.marked.index(self.marker) : self._lengths[label] - self._behind]

    @property
    def _kept(self) -> str:
        return f", of which {self.reserved} are kept for prompts" if self.reserved else ""

    def _ids(self, texts: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Ids of each text, and how many there are before padding and before any cut."""
        tokenizer = self.tokenizer
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            rows: Any = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
            return rows, [len(row) for row in rows]
        padded = tokenizer(list(texts), context_length=self.context).tolist()  # open_clip's cut too long texts without a word
        if type(tokenizer).__name__ == "HFTokenizer":
            return padded, [len(tokenizer.tokenizer(tokenizer.clean_fn(text))["input_ids"]) for text in texts]
        return padded, [len(tokenizer.encode(text)) + 2 for text in texts]

    @torch.compiler.disable  # pyright: ignore[reportArgumentType] (a range is no key that it can trace)
    def batch(self, classes: range, device: torch.device, learned: frozenset[int] = frozenset()) -> TextBatch:
        """The texts of some classes, padded; the same tensors for the same classes. Those of `learned` have markers for their words."""
        key = (classes, device, learned)
        if key not in self._batches:
            self._batches[key] = self._padded([self.marked if c in learned else self.rows[c] for c in classes], device)
        return self._batches[key]

    def marked_batch(self, count: int, device: torch.device) -> TextBatch:
        """`count` texts with markers."""
        return self._padded([self.marked] * count, device)

    def one_word_texts(self, ids: Sequence[int], device: torch.device) -> TextBatch:
        """A text for each id, which stands at the one marker of `mark(template, 1)`."""
        place = self.marked.index(self.marker)
        return self._padded([[*self.marked[:place], i, *self.marked[place + 1 :]] for i in ids], device)

    def _padded(self, rows: Sequence[Sequence[int]], device: torch.device, length: int | None = None) -> TextBatch:
        length = length or (self.context if self.pad_to_context else max(map(len, rows)))
        hugging_face = isinstance(self.tokenizer, PreTrainedTokenizerBase)
        ids = torch.full((len(rows), length), (self.tokenizer.pad_token_id if hugging_face else None) or 0)  # [C, T]
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
        masked = hugging_face and "attention_mask" in self.tokenizer.model_input_names
        to = {"device": device, "non_blocking": True}
        return TextBatch(ids.to(**to), mask.to(**to) if masked else None)
