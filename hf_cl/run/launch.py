"""The entry point of a recipe: no traceback for a user's mistake."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from hf_cl.run.describe import HELP, describe
from hf_cl.run.parse import SettingsT, parse_settings
from hf_cl.training.display import printable
from hf_cl.training.secrets import without_secrets
from hf_cl.training.signals import TrainingInterruptedError


def launch(main: Callable[[SettingsT], Any], settings_class: type[SettingsT], method: str, arguments: Sequence[str] | None = None) -> int:
    """Entry point of a recipe: parse, run, and turn a user's mistake into two lines instead of a traceback.

    `HF_CL_DEBUG=1` shows the traceback. Returns the exit status: 0, 2 for a mistake or a fault of the machine (no space, no permission),
    128 + n where signal n stopped the training.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    quiet_libraries()
    program = Path(sys.argv[0]).name if arguments is None else f"hf-cl train {method}"
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if set(HELP) & set(arguments):
            sys.stdout.write(describe(settings_class, method, arguments, program) + "\n")
            return 0
        main(parse_settings(settings_class, method, arguments))
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("HF_CL_DEBUG"):
            raise
        sys.stderr.write(f"hf-cl: {printable(without_secrets(str(error)))}\n")
        return error.exit_status if isinstance(error, TrainingInterruptedError) else 2
    return 0


def quiet_libraries() -> None:
    """No progress bars and no notes to developers from the libraries below, on a command line that people read."""
    disable_progress_bar()
    set_verbosity_error()
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated", category=FutureWarning)
