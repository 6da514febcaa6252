"""The model card: what an adapter knows, how to load it, how well it does and how it was made.

Metadata come from huggingface_hub's own classes; the text from `templates/card.md.jinja`, in which every value is escaped unless it is
Markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from hf_cl.backbones.loading import SHIPPED
from hf_cl.hub import snippets
from hf_cl.hub.access import endpoint
from hf_cl.hub.markdown import escape, fence, finalize
from hf_cl.hub.snippets import other_endpoint
from hf_cl.metrics import description
from hf_cl.results.atomic_write import write_atomically
from hf_cl.results.display import display_name, duration, flat, percent, shown, without_folders
from hf_cl.results.remarks import remarks
from hf_cl.results.results import Results
from hf_cl.results.table import headlines, progress
from hf_cl.settings import keeps_adapter

TASK = "image-classification"
MATRIX_SESSIONS = 20
"""Up to so many sessions the card shows the whole accuracy matrix; beyond, its rows would not fit a page."""
WEAKEST = 5
"""Classes named among the limits."""


@dataclass(frozen=True, kw_only=True)
class ModelCardInput:
    """What a card is made from."""

    results: Results
    settings: Mapping[str, Any]
    """Every resolved setting of the run. Paths are shown by their last part: cards are published."""
    base_model: str
    """What the user gave as base: a Hub id, a folder, `open_clip:<model>/<weights>`, `demo` or `demo_clip`."""
    adapter: str
    """The adapter's Hub id or folder, as a reader would type it."""
    method: str
    """The method's name in prose: "OVOR"."""
    adapter_type: str
    """The peft type: "ONE_PROMPT"."""
    citation: str = ""
    """BibTeX."""
    notes: Sequence[str] = ()
    """Further sentences for the limits, such as a warning about the base's training data."""
    license: str | None = None
    """An identifier of the Hub, such as apache-2.0; the user's choice, so none by default."""
    dataset_id: str | None = None
    """Hub id of the data set, where it has one."""
    two_towers: bool = False
    """Whether the adapter sits on a model with an image and a text tower, which transformers' image classification classes do not load."""
    plots: Sequence[str] = ()
    """Names of pictures that lie beside the card."""

    @property
    def base_on_hub(self) -> bool:
        """Whether the base's name is that of a repository rather than of something on this machine."""
        return is_hub_id(self.base_model)

    @property
    def dataset(self) -> str:
        """The data set's name for readers."""
        return display_name(without_folders(self.results.protocol.dataset))


def is_hub_id(name: str) -> bool:
    """Whether `name` is that of a repository (`owner/name`) and of no folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name and not Path(name).exists()


def model_card(card: ModelCardInput) -> ModelCard:
    """The card as huggingface_hub's `ModelCard`: metadata in YAML, then the text."""
    return ModelCard(f"---\n{_metadata(card).to_yaml()}\n---\n\n{_text(card)}")


def write_card(folder: str | Path, card: ModelCardInput) -> Path:
    """Write the card as `README.md` into a folder that exists; returns its path."""
    path = Path(folder) / "README.md"
    write_atomically(path, str(model_card(card)))
    return path


def _metadata(card: ModelCardInput) -> ModelCardData:
    return ModelCardData(
        base_model=card.base_model if card.base_on_hub else None,
        library_name="peft",
        pipeline_tag=TASK,
        license=card.license,
        datasets=[card.dataset_id] if card.dataset_id else None,
        tags=["hf_cl", "continual-learning", card.adapter_type.lower()],
        model_name=card.adapter if is_hub_id(card.adapter) else f"{card.method} on {card.dataset}",
        eval_results=[_eval_result(card, name, value) for name, value in scalar_metrics(card.results).items()],
    )


def scalar_metrics(results: Results) -> dict[str, float]:
    """Every metric that is defined, by its exact name; of a list its last value, named by its session: `base_accuracy[4]`."""
    scalars: dict[str, float] = {}
    for name, value in results.metrics.items():
        if isinstance(value, Sequence):
            name, value = f"{name}[{len(value) - 1}]", value[-1] if value else None  # noqa: PLW2901
        if value is not None:
            scalars[name] = value
    return scalars


def _eval_result(card: ModelCardInput, name: str, value: float) -> EvalResult:
    protocol = card.results.protocol
    return EvalResult(
        task_type=TASK,
        dataset_type=card.dataset_id or card.dataset,
        dataset_name=card.dataset,
        dataset_split=protocol.test_split,
        dataset_args={"protocol": protocol.name, "seed": card.results.seed},
        metric_type=name,
        metric_name=name,
        metric_value=round(value, 6),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=False,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": _percent, "shown": shown, "display_name": display_name, "code": _code, "duration": duration}
    return environment.get_template("card.md.jinja")


def _text(card: ModelCardInput) -> str:
    results, matrix = card.results, card.results.accuracy_matrix or []
    return _template().render(
        card=card,
        results=results,
        last=results.sessions[-1].id,
        base=_base(card),
        shipped=card.base_model in SHIPPED,
        picture=snippets.PICTURE,
        endpoint=other_endpoint(),
        policy=str(card.settings.get("keep_adapters", "all")),
        **_code_blocks(card),
        citation=fence(card.citation, "bibtex") if card.citation else None,
        headlines=[(name, value, description(name)) for name, value in headlines(results).items()],
        matrix=matrix if len(matrix) <= MATRIX_SESSIONS else None,
        rows=progress(results),
        pictures=[Markup(f"![{escape(Path(name).stem.replace('_', ' ').capitalize())}]({quote(name)})") for name in card.plots],
        weakest=_weakest(results),
        remarks=remarks(results),
        trained=any(session.trained for session in results.sessions),
        settings=flat(card.settings),
    )


def _base(card: ModelCardInput) -> Markup:
    if card.base_on_hub:  # a valid repository id holds no markup
        return Markup("[{}]({})").format(Markup(card.base_model), f"{endpoint()}/{card.base_model}")
    if card.base_model in SHIPPED:
        return Markup("`{}` (it ships with hf_cl)").format(Markup(card.base_model))
    return Markup("{} (not a repository on the Hub)").format(escape(without_folders(card.base_model)))


def _code_blocks(card: ModelCardInput) -> dict[str, Markup | None]:
    """What a reader copies: code that runs as it stands, with the names as string literals."""
    adapter, last = card.adapter, card.results.sessions[-1].id
    revision = card.results.environment.get("backbone_revision")
    base = (card.base_model, str(revision) if revision else None)
    plain = not card.base_model.startswith("open_clip:")  # transformers and peft load it without hf_cl.load
    auto = snippets.TWO_TOWERS if card.two_towers else snippets.CLASSIFIER
    policy = str(card.settings.get("keep_adapters", "all"))
    before = next((k for k in range(last - 1, -1, -1) if keeps_adapter(policy, k)), None)
    on_hub = is_hub_id(adapter)
    beside = not on_hub and PurePath(adapter).name == f"session-{last}"
    blocks: dict[str, tuple[str, str] | None] = {
        "through_peft": (snippets.through_peft(*base, adapter, len(card.results.class_names), auto), "python") if plain else None,
        "pipeline": (snippets.as_pipeline(*base, adapter), "python") if plain and not card.two_towers else None,
        "through_hf_cl": (snippets.through_hf_cl(adapter), "python"),
        "shell": (snippets.in_the_shell(adapter), "sh"),
        "revision": (snippets.earlier_session_through_hf_cl(adapter, before), "python") if before is not None and on_hub else None,
        "revision_through_peft": (snippets.earlier_session(*base, adapter, before, auto), "python")
        if before is not None and on_hub and plain
        else None,
        "beside": (snippets.through_hf_cl(snippets.sibling(adapter, before)), "python") if before is not None and beside else None,
    }
    return {name: fence(*block) if block else None for name, block in blocks.items()}


def _weakest(results: Results) -> list[tuple[str, float]]:
    measured = [(name, value) for name, value in (results.per_class_accuracy or {}).items() if value is not None]
    return sorted(measured, key=lambda pair: pair[1])[:WEAKEST]


def _percent(fraction: float | None) -> Markup:
    return Markup(percent(fraction))


def _code(name: str) -> Markup:
    """A name of ours (metric, setting, peft type) as code."""
    return Markup(f"`{name}`")
