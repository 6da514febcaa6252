"""The files of an adapter, as every loading route wants them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from hf_cl.backbones.loading import shared_name
from hf_cl.checkpoints.statistics_files import SavedStatistics, save_statistics
from hf_cl.settings import keeps_adapter

_READ_WRITE = 0o666
"""What `open` asks for; the process's umask takes from it."""


def save_adapter_files(
    folder: Path,
    model: PeftModel,
    processor: Any,
    tokenizer: Any,
    statistics: SavedStatistics | None = None,
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Adapter, head, class names, image processor and tokenizer, and where they are to go along, class statistics and `more` files by their
    names; the folder is whole or absent.

    A base that ships with hf_cl is named `demo` or `demo_clip`, not by where it is installed. Files have the mode that `open` gives: those
    of safetensors would be readable by their owner alone.
    """
    for config in model.peft_config.values():
        config.base_model_name_or_path = shared_name(config.base_model_name_or_path or "")
    aside = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(str(aside), save_embedding_layers=False)  # peft would look on the Hub for a vocabulary
    processor.save_pretrained(str(aside))
    if isinstance(tokenizer, PreTrainedTokenizerBase):  # open_clip's comes with the name of the base
        tokenizer.save_pretrained(str(aside))
    if statistics is not None:
        save_statistics(aside, statistics)
    for name, content in more.items():
        (aside / name).write_bytes(content)
    mode = _READ_WRITE & ~_umask()
    for file in aside.rglob("*.safetensors"):
        file.chmod(mode)
    (aside / "README.md").unlink(missing_ok=True)  # peft's template of a card; the run folder has a filled one
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def remove_adapters(folder: Path, policy: str, last: int) -> None:
    """Remove what `keep_adapters` does not keep of the sessions before `last`; each is there whole or not at all."""
    for path in folder.glob(".removing-*"):  # of a run that was killed
        shutil.rmtree(path)
    for path in folder.glob("session-*"):
        number = path.name.removeprefix("session-")
        if number.isdecimal() and int(number) < last and not keeps_adapter(policy, int(number)):
            aside = path.with_name(f".removing-{path.name}")
            path.rename(aside)
            shutil.rmtree(aside)


def _umask() -> int:
    """Python tells it only by setting another."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
