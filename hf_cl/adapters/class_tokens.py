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
        self._batches: dict[tuple[range, torch.device], TextBatch] = {}

    def add(self, class_names: Sequence[str], texts: Sequence[str]) -> None:
        """Tokenise the texts of further classes.

        Raises ValueError, naming the class, for a text that is longer than the context.
        """
        rows, lengths = self._ids(texts)
        for name, text, length in zip(class_names, texts, lengths, strict=True):
            if length > self.context - self.reserved:
                prompts = f", of which {self.reserved} are kept for prompts" if self.reserved else ""
                raise ValueError(
                    f"The class name {name!r} is too long: its text {text!r} has {length} tokens, and the model reads "
                    f"{self.context}{prompts}. Shorten the name or the template."
                )
        self.rows += rows
        self._batches.clear()

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
    def batch(self, classes: range, device: torch.device) -> TextBatch:
        """The texts of some classes, padded; the same tensors for the same classes."""
        key = (classes, device)
        if key not in self._batches:
            rows = [self.rows[c] for c in classes]
            length = self.context if self.pad_to_context else max(map(len, rows))
            hugging_face = isinstance(self.tokenizer, PreTrainedTokenizerBase)
            ids = torch.full((len(rows), length), (self.tokenizer.pad_token_id if hugging_face else None) or 0)  # [C, T]
            mask = torch.zeros_like(ids)
            for i, row in enumerate(rows):
                ids[i, : len(row)] = torch.tensor(row)
                mask[i, : len(row)] = 1
            masked = hugging_face and "attention_mask" in self.tokenizer.model_input_names
            to = {"device": device, "non_blocking": True}
            self._batches[key] = TextBatch(ids.to(**to), mask.to(**to) if masked else None)
        return self._batches[key]
