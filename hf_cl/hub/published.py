"""What of a run is published: an adapter per session, and the run's records. Nothing that names a place on this machine."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from hf_cl.backbones.loading import SHIPPED, shared_name
from hf_cl.backbones.open_clip import OPEN_CLIP_PREFIX
from hf_cl.hub.card import ModelCardInput, is_hub_id, model_card, write_card
from hf_cl.hub.fetch import ADAPTER_CONFIG, ADAPTER_WEIGHTS, session_folders
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.display import without_folders
from hf_cl.results.history import FILE as SESSIONS
from hf_cl.results.history import brought_up_to_date
from hf_cl.results.results import Results
from hf_cl.settings import keeps_adapter

CARD_FACTS = "card.json"
PLOTS = ("accuracy_over_sessions.png", "accuracy_matrix.png")
_SUFFIXES = (".json", ".safetensors", ".txt", ".model")
"""Of an adapter's files: config, weights, image processor, tokenizer."""

Content = bytes | Path
"""Of a file to publish: itself, or where it lies."""


@dataclass(frozen=True)
class SessionFiles:
    """One session's adapter, ready to be published."""

    id: int
    config: Mapping[str, Any]
    files: Mapping[str, Content]

    @property
    def tag(self) -> str:
        return f"session-{self.id}"

    @property
    def message(self) -> str:
        sizes = self.config.get("classes_per_session") or [len(self.config["class_names"])]
        brought = f"{sizes[-1]} new classes" if sizes[-1] else "more images of known classes"
        return f"Session {self.id}: {brought}, {len(self.config['class_names'])} in all"


def all_sessions(run: Path, base_model: str | None) -> list[SessionFiles]:
    """The sessions of a run whose adapters were kept, in order.

    Raises ValueError where there is none or one is missing that `keep_adapters` keeps, and what `session_files` does.
    """
    folders, policy = session_folders(run), str(_settings(run).get("keep_adapters", "all"))
    missing = [f"session-{k}" for k in _missing(folders) if keeps_adapter(policy, k)]
    if missing:
        raise ValueError(f"{run}/adapters lacks {', '.join(missing)}, so its later sessions cannot be published in order.")
    return [session_files(folder, base_model) for folder in folders]


def _missing(folders: Sequence[Path]) -> list[int]:
    """Sessions before the last one that have no folder."""
    numbers = {int(folder.name.removeprefix("session-")) for folder in folders}
    return [k for k in range(max(numbers)) if k not in numbers]


def session_files(folder: Path, base_model: str | None) -> SessionFiles:
    """One session's files, the base under the name that others know.

    Args:
        folder: `adapters/session-k`.
        base_model: what the adapter is to name as its base; None: what it names now.

    Raises ValueError for an adapter that is not whole, and for a base that is found on this machine only.
    """
    config = _whole_adapter(folder)
    config["base_model_name_or_path"] = base_model or published_base(str(config.get("base_model_name_or_path") or ""))
    files: dict[str, Content] = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix in _SUFFIXES}
    files[ADAPTER_CONFIG] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
    return SessionFiles(int(folder.name.removeprefix("session-")), config, files)


def _whole_adapter(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
        with safe_open(folder / ADAPTER_WEIGHTS, "numpy"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"The adapter in {folder} is not whole ({error}). Train on with --resume auto, which writes it again.") from error
    if not isinstance(config, dict) or not config.get("class_names"):
        raise ValueError(f"{folder / ADAPTER_CONFIG} names no classes: this is no adapter of an hf_cl run.")
    return config


def published_base(name: str) -> str:
    """How others find the base: a Hub id, `open_clip:<model>/<weights>`, `demo` or `demo_clip`.

    Raises ValueError, with the option that helps, for what only this machine has.
    """
    if shared_name(name) in SHIPPED:
        return shared_name(name)
    weights = name.removeprefix(OPEN_CLIP_PREFIX).partition("/")[2]
    if name.startswith(OPEN_CLIP_PREFIX) and "/" not in weights and not Path(weights).is_file():
        return name
    if is_hub_id(name):
        return name
    raise ValueError(
        f"The adapter names {name!r} as its base, which nobody else can load. Push with --base_model ID, the same base's name on the Hub."
    )


def write_run_card(run: Path, card: ModelCardInput) -> Path:
    """`README.md`, and in `card.json` what a push needs to write it again under the repository's name."""
    path = write_card(run, card)
    facts = {field.name: getattr(card, field.name) for field in fields(card) if field.name not in ("results", "settings")}
    facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    write_atomically(run / CARD_FACTS, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return path


def record_files(run: Path, repo_id: str, last: SessionFiles) -> tuple[dict[str, Content], Sequence[str]]:
    """The run's records, and remarks for whoever pushes: `results.json`, the plots, and the card under the repository's name.

    A card that somebody has edited is published as it stands. An unfinished run has a card without citation and plots.

    Raises ValueError for records that are not what hf_cl writes.
    """
    gone = _missing(session_folders(run))
    not_kept = [f"Adapters of {len(gone)} sessions were not kept (keep_adapters), so they have no revision."] if gone else []
    results = _published(brought_up_to_date(Results.load(run / "results.json"), run / SESSIONS), last)
    plots = [name for name in PLOTS if (run / name).is_file()]
    files: dict[str, Content] = {name: run / name for name in plots}
    with tempfile.TemporaryDirectory() as folder:
        results.save(Path(folder) / "results.json")
        files["results.json"] = (Path(folder) / "results.json").read_bytes()
    facts = _card_facts(run)
    if facts and (edited := _edited_card(run, facts.pop("sha256"))) is not None:
        return files | {"README.md": edited}, [*not_kept, f"{run / 'README.md'} was edited: it is published as it stands."]
    unfinished = [] if facts else ["The run is not finished, so its card lacks citation and plots; push again at its end."]
    kind = str(last.config["peft_type"])
    title = results.method.title if results.method else kind
    facts = {"method": title, "adapter_type": kind, "two_towers": (last.config.get("head") or {}).get("type") == "text"} | facts
    facts |= {"adapter": repo_id, "base_model": last.config["base_model_name_or_path"], "plots": plots}
    card = ModelCardInput(results=results, settings=_settings(run), **facts)
    return files | {"README.md": str(model_card(card)).encode()}, [*not_kept, *unfinished]


def _edited_card(run: Path, sha256: str) -> bytes | None:
    """The card, if it is there and no longer what hf_cl wrote."""
    path = run / "README.md"
    content = path.read_bytes() if path.is_file() else None
    return content if content is not None and hashlib.sha256(content).hexdigest() != sha256 else None


def _card_facts(run: Path) -> dict[str, Any]:
    try:
        facts = json.loads((run / CARD_FACTS).read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{run / CARD_FACTS} is not valid JSON: {error}.") from error
    known = {"sha256", *(field.name for field in fields(ModelCardInput))} - {"results", "settings"}
    if not isinstance(facts, dict) or not {"sha256"} <= facts.keys() <= known:
        raise ValueError(f"{run / CARD_FACTS} is not what hf_cl writes there. Delete it, and the card is made from the results alone.")
    return facts


def _settings(run: Path) -> dict[str, Any]:
    if not (run / "config.yaml").is_file():
        return {}
    try:
        return yaml.safe_load((run / "config.yaml").read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{run / 'config.yaml'} is not valid YAML: {str(error).splitlines()[0]}.") from error


def _published(results: Results, last: SessionFiles) -> Results:
    """The same numbers, with places on this machine by their last part."""
    protocol = results.protocol
    protocol = replace(protocol, dataset=without_folders(protocol.dataset), class_order=without_folders(protocol.class_order))
    return replace(results, protocol=protocol, environment=results.environment | {"backbone": last.config["base_model_name_or_path"]})
