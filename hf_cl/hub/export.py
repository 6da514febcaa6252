"""An adapter for those who do without hf_cl (a merged model, ONNX, stock LoRA), or a smaller one. Each export is loaded again and compared.

Shapes: B batch, C classes, D feature width, E embedding width, S image side.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import AutoModelForImageClassification, PretrainedConfig, PreTrainedModel

from hf_cl.adapters.async_lora import AsyncLoraModel
from hf_cl.adapters.glad import GladConfig, export_lora
from hf_cl.adapters.hyper_lora import HyperLoraModel
from hf_cl.adapters.towers import encode_images
from hf_cl.adapters.unloaded import LINEAR_HEAD
from hf_cl.backbones import ClipClassifier, OpenClipForImageClassification
from hf_cl.heads import LinearHead
from hf_cl.hub.classifier import Classifier
from hf_cl.hub.load import load
from hf_cl.hub.truncated import write_truncated

CANNOT_MERGE = {
    "PROMPT_POOL": "its rows differ from image to image, and no weights of the base can stand for them",
    "ONE_PROMPT": "its prefix rows join the keys and values of attention, and no weights of the base can stand for them",
    "CPE_CLIP": "its prompts are tokens beside those of image and text, and no weights of the base can stand for them",
}
"""peft type -> why there is no merged model, unless the adapter is its head alone."""
TOLERANCE = 1e-4
"""Largest difference of a logit or log-probability, as a share of the largest (or of 1)."""
ONNX_FILE = "model.onnx"


def export(
    adapter: str | Path,
    folder: str | Path,
    form: str = "merged",
    *,
    revision: str | None = None,
    base_model: str | None = None,
    domain: str | None = None,
) -> Path:
    """Write an adapter in a form that needs no hf_cl, or less room, and check it.

    - `merged`: a full model for `AutoModelForImageClassification.from_pretrained`, with class names and image processor, and the same
      log-probabilities. For types that merge (all but prompts) and what has a head alone (method `frozen`), under heads that are linear:
      linear, ridge and fetril on the features as they are, gaussian with a shared covariance.
    - `onnx`: `model.onnx`, from pixel_values [B, 3, S, S], any B, to logits [B, C], with image processor and a config.json that names the
      classes. For every type and head; where the class names are the head, their text features are inside.
    - `lora`: a stock LORA adapter, for types that are one underneath (GLAD, ASYNC_LORA without unfrozen copies, HYPER_LORA
      with one session). Under a linear head the base must be loaded with as many labels as there are classes; class names stay behind.
    - `truncated`: an adapter as before, whose head of type nested_dropout holds only the dimensions that it keeps.

    Args:
        adapter, revision, base_model: as for `hf_cl.load`.
        folder: a new or empty folder.
        form: `merged`, `onnx`, `lora` or `truncated`.
        domain: for all images, of an adapter that has norms for several (SESSION_NORM); a merged model needs it.

    Returns the folder. Raises ValueError, with the reason, for what a form cannot express, for a folder that holds something, without the
    extra `onnx`, and what `load` raises; RuntimeError where the export does not give the adapter's logits.
    """
    if form not in FORMS:
        raise ValueError(f"The form of an export is one of {', '.join(FORMS)}, not {form!r}.")
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{place} holds something already; choose a new folder.")
    if form == "onnx":
        _check_extra()
    classifier = load(adapter, revision=revision, device="cpu", base_model=base_model)
    if domain is not None:
        classifier.set_domain(domain)
    try:
        FORMS[form](classifier, place)
    except (ValueError, RuntimeError):  # what is wrong or half there is not left for others to find
        shutil.rmtree(place, ignore_errors=True)
        raise
    classifier.processor.save_pretrained(place)
    return place


def _export_merged(classifier: Classifier, folder: Path) -> None:
    kind, base = _kind(classifier), classifier.model.get_base_model()
    if kind in CANNOT_MERGE and not _is_empty(classifier):
        raise ValueError(f"{kind} cannot be merged: {CANNOT_MERGE[kind]}. Export it as onnx.")
    if not isinstance(base, PreTrainedModel):
        raise ValueError(f"{type(base).__name__} is no model of transformers, so nothing could load it merged. Export it as onnx.")
    pixels = _pixels(classifier)
    wanted = _log_probabilities(classifier, pixels)
    merged: Any = classifier.model.merge_and_unload()  # pyright: ignore[reportCallIssue]
    _name_classes(merged.config, classifier.class_names)
    merged.save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).eval()
    _compare(wanted, again(pixel_values=pixels).logits.log_softmax(-1), "The merged model")


def _is_empty(classifier: Classifier) -> bool:
    """Whether the adapter is its head alone, so that there is nothing to merge."""
    prefix: Any = classifier.model.base_model.prefix
    return not any(prefix in name for name, _ in classifier.model.named_parameters())


@torch.no_grad()
def _log_probabilities(classifier: Classifier, pixels: Tensor) -> Tensor:
    """[B, C] what the merged model must give. Raises ValueError for a head that no linear layer and softmax can stand for."""
    head = classifier.classifier.head
    if isinstance(classifier.classifier, ClipClassifier):
        raise ValueError(
            "The adapter has class names as its head, and a merged model can only have a linear layer there. Export it as onnx."
        )
    if head.as_linear() is None:
        raise ValueError(
            f"The adapter has a head of kind {type(head).__name__}, and a merged model can only have a linear layer there. Train with "
            f"{LINEAR_HEAD}, which is one, or export it as onnx."
        )
    logits = _Logits(classifier)(pixels)
    if not torch.allclose(head.probabilities(logits), logits.softmax(-1), atol=1e-6):
        raise ValueError(
            "The head was trained under another normalisation than the softmax, which is all that a stock classifier has: its "
            "probabilities would be others. Export it as onnx, whose logits are the head's."
        )
    return logits.log_softmax(-1)


def _export_onnx(classifier: Classifier, folder: Path) -> None:
    import onnxruntime  # noqa: PLC0415 (an extra)

    module, pixels = _Logits(classifier).eval(), _pixels(classifier)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_onnx(module, pixels, folder / ONNX_FILE)
    except torch.onnx.OnnxExporterError as error:
        raise RuntimeError(f"torch.onnx cannot export this model: {str(error).splitlines()[0]}") from error
    base: Any = classifier.model.get_base_model()
    config = base.config if isinstance(base, PreTrainedModel | OpenClipForImageClassification) else PretrainedConfig()
    _name_classes(config, classifier.class_names)
    config.save_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    for count in (1, len(pixels)):
        found: Any = session.run(["logits"], {"pixel_values": pixels[:count].numpy()})[0]
        _compare(module(pixels[:count]), torch.from_numpy(found), "The ONNX model")


def _write_onnx(module: nn.Module, pixels: Tensor, path: Path) -> None:
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    torch.onnx.export(
        module,
        (pixels,),
        path,
        input_names=["pixel_values"],
        output_names=["logits"],
        dynamic_shapes={"pixel_values": {0: torch.export.Dim.DYNAMIC}},
        dynamo=True,
        external_data=size > 2**30,  # one file holds at most 2 GiB
        verbose=False,
    )


def _name_classes(config: Any, names: Sequence[str]) -> None:
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    if config.model_type == "timm_wrapper":  # it keeps the names of the checkpoint's own classes beside
        config.label_names = list(names)


def _check_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ValueError("ONNX needs the extra: pip install '.[onnx]' in the clone of hf_cl.")


def _export_lora(classifier: Classifier, folder: Path) -> None:
    head, config = classifier.classifier.head, classifier.model.peft_config["default"]
    if (config.head or {}).get("pool"):  # pyright: ignore[reportAttributeAccessIssue]
        raise ValueError("The head reads the vision tower's pooled output (pool: pooled), which stock LORA's does not. Export it as onnx.")
    if not isinstance(classifier.classifier, ClipClassifier) and type(head) is not LinearHead:
        raise ValueError(
            f"The adapter has a head of kind {type(head).__name__}, and a stock LORA adapter can only have a linear layer there. Export it "
            "as onnx."
        )
    tuner: Any = classifier.model.base_model
    if isinstance(classifier.model.peft_config["default"], GladConfig):
        export_lora(classifier.model, folder)
    elif isinstance(tuner, HyperLoraModel) and tuner.generator("default").sessions > 1:
        raise ValueError(
            "This adapter generates one LoRA for each session, and a stock LORA adapter is one. In Python choose a session: "
            "hf_cl.load(...).model.base_model.to_lora(folder, session=0). Or export it as onnx."
        )
    elif isinstance(tuner, AsyncLoraModel | HyperLoraModel):
        tuner.to_lora(folder)
    else:
        raise ValueError(f"{_kind(classifier)} is no LoRA underneath; GLAD and ASYNC_LORA are.")


def _export_truncated(classifier: Classifier, folder: Path) -> None:
    write_truncated(classifier, _pixels(classifier), folder)


FORMS: dict[str, Callable[[Classifier, Path], None]] = {
    "merged": _export_merged,
    "onnx": _export_onnx,
    "lora": _export_lora,
    "truncated": _export_truncated,
}
"""Form -> what writes it."""


class _Logits(nn.Module):
    """The classifier from pixels to logits and nothing else; without gradient. Texts are encoded once, here."""

    text: Tensor | None

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model, inner = classifier.model.get_base_model(), classifier.classifier
        self.requires_grad_(False)
        self._scaled: Callable[[Tensor], Tensor] | None = None
        text = None
        if isinstance(inner, ClipClassifier):
            with torch.no_grad():
                text = inner.head.text_features(range(inner.head.num_classes))  # [C, E]
            head = inner.head
            self._scaled = lambda cosine: head.calibrated(head.scaled(cosine))
        self.register_buffer("text", text)

    def forward(self, pixel_values: Tensor) -> Tensor:  # [B, 3, S, S] -> [B, C]
        if self.text is None or self._scaled is None:
            return self.model(pixel_values=pixel_values).logits
        image = F.normalize(encode_images(self.model, pixel_values), dim=-1)  # [B, E]
        return self._scaled(image @ self.text.T)


def _pixels(classifier: Classifier) -> Tensor:
    """[3, 3, S, S] what the image processor makes of noise."""
    noise = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
    return classifier.processor(images=[Image.fromarray(one) for one in noise], return_tensors="pt")["pixel_values"]


@torch.no_grad()
def _compare(wanted: Tensor, found: Tensor, what: str) -> None:
    off = (wanted - found).abs().max() / max(1.0, wanted.abs().max().item())
    if wanted.shape != found.shape or not off <= TOLERANCE:
        raise RuntimeError(f"{what} does not give what the adapter gives: they differ by up to {off:.1e} of the largest. It was deleted.")


def _kind(classifier: Classifier) -> str:
    kind: Any = classifier.model.peft_config["default"].peft_type
    return kind.value
