"""Whole words among the tokens of a text tower."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

LEAST_LETTERS = 3
"""Shorter ones are mostly articles and endings."""
_MARKS = (("", "</w>"), ("▁", ""), ("Ġ", ""), ("", ""))
"""What stands before and behind a token that is a whole word: CLIP's, SentencePiece's, byte-level BPE's, and where tokens are words."""


def vocabulary_words(tokenizer: Any) -> dict[str, int]:
    """Word -> token id of every word of at least three letters that is one token, in the order of the ids: where they count merges or
    ranks, as those of CLIP and SigLIP do, the most frequent words come first.

    Args:
        tokenizer: of transformers, or of open_clip.
    """
    inner = tokenizer.tokenizer if type(tokenizer).__name__ == "HFTokenizer" else tokenizer
    ids: dict[str, int] = inner.get_vocab() if isinstance(inner, PreTrainedTokenizerBase) else inner.encoder
    for before, after in _MARKS:
        marked = [(token, i) for token, i in ids.items() if token.startswith(before) and token.endswith(after)]
        bare = ((token.removeprefix(before).removesuffix(after), i) for token, i in sorted(marked, key=lambda pair: pair[1]))
        found = {word: i for word, i in bare if word.isalpha() and len(word) >= LEAST_LETTERS}
        if found:
            return found
    return {}
