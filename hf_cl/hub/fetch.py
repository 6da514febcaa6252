"""An adapter's files on this machine, wherever they come from."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from hf_cl.adapters.files import check_folder
from hf_cl.checkpoints.statistics_files import STATISTICS_FILE
from hf_cl.errors import exists, near_path
from hf_cl.hub.access import UNREACHED, HubError, explained, unwrapped
from hf_cl.memory.novelty import NOVELTY_FILE

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = ["*.json", ADAPTER_WEIGHTS, NOVELTY_FILE, "*.txt", "*.model"]
"""What is fetched: config, weights, image processor, tokenizer; no pickle, no code, no other model that lies beside."""
_ENSEMBLE = " Of an ensemble, which has none of its own, name the members, or distil them: hf-cl ensemble RUN... --distill."
WITH_STATISTICS = [*FILES, STATISTICS_FILE]
"""The same for a run that goes on from the adapter."""


def session_folders(run: Path) -> list[Path]:
    """`adapters/session-0`, `session-1`, ... in order.

    Raises ValueError where there is none.
    """
    if not run.is_dir():
        raise ValueError(f"There is no run folder {str(run)!r}.{near_path(run)}")
    numbered = {name: path for path in (run / "adapters").glob("session-*") if (name := path.name.removeprefix("session-")).isdecimal()}
    if not numbered:
        ensemble = _ENSEMBLE if (run / "results.json").is_file() else ""
        raise ValueError(f"{run} is a run folder without an adapter: no session has ended yet.{ensemble}")
    return [numbered[name] for name in sorted(numbered, key=int)]


def adapter_folder(adapter: str | Path, revision: str | None = None, *, statistics: bool = False) -> Path:
    """The folder with an adapter's files.

    Args:
        adapter: a Hub id, an adapter folder, or a run folder (its last session).
        revision: of the Hub id, or the name of one of the run folder's sessions.
        statistics: fetch the class statistics too, where the adapter has some; who predicts does not need them.

    Raises ValueError where there is no adapter or no such session, and HubError for what the Hub did not give.
    """
    here = Path(adapter)
    if exists(here / "adapters"):
        return _checked(_session_folder(here, revision), adapter)
    if exists(here) and here.is_dir():
        return _checked(here, adapter)
    try:
        validate_repo_id(str(adapter))
    except HFValidationError as error:
        raise ValueError(_no_folder(adapter)) from error
    if "/" not in str(adapter) or here.parent.is_dir():
        raise ValueError(_no_folder(adapter))
    return _checked(_fetched(str(adapter), revision, WITH_STATISTICS if statistics else FILES), adapter)


def _no_folder(adapter: str | Path) -> str:
    return f"There is no folder {str(adapter)!r}, and a Hub id has the form owner/name.{near_path(adapter)}"


def _session_folder(run: Path, revision: str | None) -> Path:
    folders = {folder.name: folder for folder in session_folders(run)}
    if revision is not None and revision not in folders:
        last = max(int(name.removeprefix("session-")) for name in folders)
        gone = " The adapters of other sessions were not kept (keep_adapters)." if len(folders) <= last else ""
        raise ValueError(f"{run} has no revision {revision!r}; it has {', '.join(folders)}.{gone}")
    return [*folders.values()][-1] if revision is None else folders[revision]


def _fetched(repo_id: str, revision: str | None, files: list[str]) -> Path:
    try:
        return Path(unwrapped(lambda: snapshot_download(repo_id, revision=revision, allow_patterns=files)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise HubError(
            f"{_named(repo_id, revision)} is not on this machine, and HF_HUB_OFFLINE is set. Load it once with a network."
        ) from error
    except UNREACHED as error:
        raise explained(error, f"loading {_named(repo_id, revision)}") from error


def _named(repo_id: str, revision: str | None) -> str:
    return f"{repo_id} at revision {revision}" if revision else repo_id


def _checked(folder: Path, adapter: str | Path) -> Path:
    if not (folder / ADAPTER_CONFIG).is_file():
        ensemble = _ENSEMBLE if (folder / "results.json").is_file() else ""
        raise ValueError(f"{adapter} is no adapter: it has no {ADAPTER_CONFIG}.{ensemble}")
    check_folder(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{adapter} is no adapter: it has no {ADAPTER_WEIGHTS}.")
    return folder
