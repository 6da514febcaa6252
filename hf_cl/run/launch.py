"""The entry point of a recipe: no traceback for a user's mistake."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hf_cl.errors import TrainingInterruptedError
from hf_cl.own_parts import import_parts
from hf_cl.results.display import escape_missing_letters, printable
from hf_cl.results.retries import one_line_per_retry
from hf_cl.run.describe import HELP, print_help
from hf_cl.run.own_pictures import with_config
from hf_cl.run.parse import SettingsT, parse_settings
from hf_cl.secrets import without_secrets


def launch(main: Callable[[SettingsT], Any], settings_class: type[SettingsT], method: str, arguments: Sequence[str] | None = None) -> int:
    """Entry point of a recipe: parse, run, and turn a user's mistake into a few lines instead of a traceback.

    Where the error went through code that is neither hf_cl's nor a library's, a loss of the user's own say, the traceback is shown;
    `HF_CL_DEBUG=1` shows every one. Returns the exit status: 0, 2 for a mistake or a fault of the machine (no space, no permission),
    128 + n where signal n stopped the training.
    """
    escape_missing_letters()
    program = Path(sys.argv[0]).name if arguments is None else f"hf-cl train {method}"
    given = sys.argv[1:] if arguments is None else arguments

    def start() -> None:
        if set(HELP) & set(given):
            print_help(settings_class, method, given, program)
            return
        settings = parse_settings(settings_class, method, with_config(method, given, say=_remark))
        quiet_libraries()
        import_parts(settings.imports)
        main(settings)

    return status_of(start)


def status_of(action: Callable[[], object]) -> int:
    """The exit status of an action, a user's mistake in it told in a few lines; see `launch`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    try:
        action()
    except (ValueError, RuntimeError, OSError) as error:
        if os.environ.get("HF_CL_DEBUG"):
            raise
        if _through_own_code(error.__traceback__):
            traceback.print_exception(error)
        sys.stderr.write(f"hf-cl: {printable(without_secrets(_in_words(error)))}\n")
        return error.exit_status if isinstance(error, TrainingInterruptedError) else 2
    return 0


def _remark(sentence: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        sys.stderr.write(f"hf-cl: {sentence}\n")


def _in_words(error: Exception) -> str:
    """The message; where another process has gone, what that means."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and any(
        words in str(error) for words in ("Connection closed by peer", "Connection reset")
    ):
        return (
            "Another process of this run has ended, so this one ends too; what it wrote says why. The last checkpoint is whole: start all "
            f"again with --resume auto. (torch: {str(error).splitlines()[0]})"
        )
    return str(error)


OURS = Path(__file__).parents[1]
LIBRARIES = tuple(str(Path(path)) for path in set(sysconfig.get_paths().values()) if path != sysconfig.get_path("data"))


def _through_own_code(trace: TracebackType | None) -> bool:
    """Whether hf_cl called code that is neither its own nor a library's on the way to the error."""
    inside = 0  # of hf_cl, after `launch` itself and whatever `main` it was given
    for frame in traceback.walk_tb(trace):
        path = frame[0].f_code.co_filename
        if Path(path).is_relative_to(OURS):
            inside += path != __file__
        elif inside and not path.startswith((*LIBRARIES, "<")):
            return True
    return False


def quiet_libraries() -> None:
    """No progress bars and no notes to developers from the libraries below, on a command line that people read.

    `python -W default` or PYTHONWARNINGS brings their warnings back.
    """
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error  # noqa: PLC0415 (a mistyped setting waits for neither)

    disable_progress_bar()
    set_verbosity_error()
    one_line_per_retry()
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # read when datasets is imported, which may not have happened yet
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.showwarning = _own_warning


def _own_warning(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
    """Warnings of the user's own code in a line. Those of libraries are notes to developers, with paths and source lines: what matters of
    a broken picture or file, the check of the data says."""
    if Path(filename).is_relative_to(OURS) or not filename.startswith((*LIBRARIES, "<")):
        sys.stderr.write(f"WARNING {printable(str(message))}\n")
