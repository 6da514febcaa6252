"""Class names in several templates, for what draws among them.

Shapes: C classes, K templates, T text positions, n texts, E embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_cl.adapters.class_tokens import ClassTokens
from hf_cl.adapters.pseudo_words import Words
from hf_cl.adapters.text_classifier import TextHead, unit
from hf_cl.adapters.towers import TextBatch, encode_texts


class TemplateTexts:
    """The texts of a head's first classes in each of some templates, tokenised once.

    Args:
        head: whose text tower and class names they are; learned words stand where its own texts have them.
        templates: with one `{}` each.
        count: C, how many classes.

    Raises ValueError, naming the class, for a text that is longer than the context.
    """

    def __init__(self, head: TextHead, templates: Sequence[str], count: int) -> None:
        self.head = head
        names, learned = head.class_names[:count], head.learned
        each = []
        for template in templates:
            tokens = ClassTokens(head.model, head.tokens.tokenizer, head.tokens.reserved)
            tokens.add(names, replace(head.spec, template=template).texts(names))
            if head.words is not None:
                tokens.mark(template, head.spec.words_per_class)
            each.append(tokens)
        length = max(tokens.longest(learned) for tokens in each)
        batches = [tokens.all_texts(length, learned) for tokens in each]
        self.device = next(head.model.parameters()).device
        to: Any = {"device": self.device, "non_blocking": True}
        self._ids = torch.stack([batch.input_ids for batch in batches]).to(**to)  # [K, C, T]
        masks = [batch.attention_mask for batch in batches if batch.attention_mask is not None]
        self._masks = torch.stack(masks).to(**to) if masks else None  # [K, C, T]
        self._markers = torch.tensor([tokens.marker for tokens in each]).to(**to)  # [K]

    def encode(self, classes: Tensor, templates: Tensor) -> Tensor:
        """[n], [n] -> [n, E] text embeddings at unit length, float32, with gradient, through the model as it is."""
        classes, templates = (numbers.to(self.device, non_blocking=True) for numbers in (classes, templates))
        mask = None if self._masks is None else self._masks[templates, classes]  # [n, T]
        batch = TextBatch(self._ids[templates, classes], mask, self._words(classes, templates))
        embeddings = encode_texts(self.head.model, batch)  # [n, E]
        with torch.autocast(self.device.type, enabled=False):
            return unit(embeddings)

    def _words(self, classes: Tensor, templates: Tensor) -> Words | None:
        if self.head.words is None:
            return None
        vectors = self.head.words.vectors[classes]  # [n, W, D]
        learned = ~vectors.isnan().flatten(1).any(1)
        return Words(vectors.nan_to_num(), learned, self._markers[templates][:, None])
