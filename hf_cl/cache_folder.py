"""Where hf_cl keeps what only saves time; all of it may be deleted."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$HF_CL_CACHE`, or `hf_cl` in the folder of the Hugging Face libraries (`$HF_HOME`). It need not be there yet."""
    given = os.environ.get("HF_CL_CACHE")
    if given:
        return Path(given).expanduser()
    home = os.environ.get("HF_HOME") or str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hf_cl"
