"""The files of an adapter, as every loading route wants them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase


def save_adapter_files(folder: Path, model: PeftModel, processor: Any, tokenizer: Any) -> None:
    """Adapter, head, class names, image processor and tokenizer; the folder is whole or absent."""
    aside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(str(aside), save_embedding_layers=False)  # peft would look on the Hub for a vocabulary
    processor.save_pretrained(str(aside))
    if isinstance(tokenizer, PreTrainedTokenizerBase):  # open_clip's comes with the name of the base
        tokenizer.save_pretrained(str(aside))
    (aside / "README.md").unlink(missing_ok=True)  # peft's template of a card; the run folder has a filled one
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
