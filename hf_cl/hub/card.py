"""The model card: what an adapter knows, how to load it, how well it does and how it was made.

Metadata come from huggingface_hub's own classes; the text from `templates/card.md.jinja`, in which every value is escaped unless it is
Markup.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hf_cl.hub.markdown import escape, fence, finalize
from hf_cl.metrics import description
from hf_cl.training.atomic_write import write_atomically
from hf_cl.training.display import display_name, duration, flat, percent, shown, without_folders
from hf_cl.training.remarks import remarks
from hf_cl.training.results import Results
from hf_cl.training.results_table import headlines, progress

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
    """What the user gave as base: a Hub id, a folder, `open_clip:<model>/<weights>`, or `demo`."""
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
        model_name=without_folders(card.adapter),
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


def _text(card: ModelCardInput) -> str:
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
    results, matrix = card.results, card.results.accuracy_matrix or []
    return environment.get_template("card.md.jinja").render(
        card=card,
        results=results,
        last=results.sessions[-1].id,
        base=_base(card),
        **_code_blocks(card),
        citation=fence(card.citation, "bibtex") if card.citation else None,
        headlines=[(name, value, description(name)) for name, value in headlines(results).items()],
        matrix=matrix if len(matrix) <= MATRIX_SESSIONS else None,
        rows=progress(results),
        pictures=[Markup(f"![{escape(Path(name).stem.replace('_', ' ').capitalize())}]({quote(name)})") for name in card.plots],
        weakest=_weakest(results),
        remarks=remarks(results),
        settings=flat(card.settings),
    )


def _base(card: ModelCardInput) -> Markup:
    if card.base_on_hub:  # a valid repository id holds no markup
        return Markup(f"[{card.base_model}](https://huggingface.co/{card.base_model})")
    return Markup("{} (not a repository on the Hub)").format(escape(without_folders(card.base_model)))


def _code_blocks(card: ModelCardInput) -> dict[str, Markup | None]:
    """What a reader copies: code that runs as it stands, with the names as string literals."""
    adapter = json.dumps(without_folders(card.adapter))
    last = card.results.sessions[-1].id
    revision = f'revision="session-{max(0, last - 1)}"'
    through_peft = not (card.two_towers or card.base_model.startswith("open_clip:"))
    with_revision = [f"model = PeftModel.from_pretrained(base, {adapter}, {revision})"] if through_peft else []
    with_revision.append(f"classifier = hf_cl.load({adapter}, {revision})")
    return {
        "through_peft": fence(_peft_code(card, adapter), "python") if through_peft else None,
        "pipeline": fence(_PIPELINE, "python") if through_peft else None,
        "through_hf_cl": fence(f'import hf_cl\n\nprint(hf_cl.load({adapter}).predict(["cat.jpg"])[0])', "python"),
        "shell": fence(f"hf-cl predict {shlex.quote(display_name(without_folders(card.adapter)))} cat.jpg", "sh"),
        "revisions": fence("\n".join(with_revision), "python") if last > 0 else None,
    }


_PIPELINE = """from transformers import pipeline

classify = pipeline("image-classification", model=model.get_base_model(), image_processor=processor)
print(classify("cat.jpg"))"""


def _peft_code(card: ModelCardInput, adapter: str) -> str:
    base, imports = json.dumps(without_folders(card.base_model)), ""
    if card.base_model == "demo":
        base, imports = "demo_backbone()", "from hf_cl.backbones import demo_backbone\n"
    revision = card.results.environment.get("backbone_revision")
    at = f", revision={json.dumps(revision)}" if revision else ""
    return f"""import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

import hf_cl  # tells peft about the adapter type
{imports}
base = AutoModelForImageClassification.from_pretrained({base}{at})
model = PeftModel.from_pretrained(base, {adapter}).eval()
processor = AutoImageProcessor.from_pretrained({adapter})

image = Image.open("cat.jpg").convert("RGB")
with torch.no_grad():
    logits = model(**processor(images=image, return_tensors="pt")).logits  # [1, {len(card.results.class_names)}]
print(model.config.id2label[logits.argmax(-1).item()])"""


def _weakest(results: Results) -> list[tuple[str, float]]:
    measured = [(name, value) for name, value in (results.per_class_accuracy or {}).items() if value is not None]
    return sorted(measured, key=lambda pair: pair[1])[:WEAKEST]


def _percent(fraction: float | None) -> Markup:
    return Markup(percent(fraction))


def _code(name: str) -> Markup:
    """A name of ours (metric, setting, peft type) as code."""
    return Markup(f"`{name}`")
