"""An adapter for those who do without hf_cl (a merged model, ONNX, stock LoRA), or a smaller one. Each export is loaded again and compared.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from hf_cl.adapters.async_lora import AsyncLoraModel
from hf_cl.adapters.glad import GladConfig, export_lora
from hf_cl.adapters.hyper_lora import HyperLoraModel
from hf_cl.backbones import ClipClassifier, OpenClipForImageClassification
from hf_cl.heads import LinearHead
from hf_cl.hints import refuse
from hf_cl.hub.agreement import Judge
from hf_cl.hub.as_logits import Logits, compare, kind_of, pixels_of_noise
from hf_cl.hub.classifier import Classifier
from hf_cl.hub.export_card import write_export_card
from hf_cl.hub.fetch import adapter_folder
from hf_cl.hub.load import load
from hf_cl.hub.merged import name_classes, write_merged
from hf_cl.hub.small import write_small
from hf_cl.hub.truncated import write_truncated
from hf_cl.memory.novelty import NOVELTY_FILE

ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class Wish:
    """What an export may be asked beside its form."""

    pictures: Any = None
    """On which predictions are compared: what `hf_cl.load(...).predict` takes."""
    bits: int | None = None
    max_bytes: int | None = None
    keep: float | None = None
    skip_blocks: Sequence[int] | str | None = None

    def check(self, form: str) -> None:
        """Raise ValueError, with all faults, for what does not go with a form or lies out of range."""
        takes = {"small": {"bits", "max_bytes", "keep", "pictures"}, "merged": {"skip_blocks", "keep", "pictures"}}.get(form, set())
        asked = {name for name, value in vars(self).items() if value is not None}
        faults = [f"{name} says nothing about the form {form}." for name in sorted(asked - takes)]
        if form == "merged" and self.skip_blocks is None and asked & {"keep", "pictures"}:
            faults.append("A merged model gives what the adapter gives; keep and pictures are for skip_blocks.")
        if self.pictures is None and (form == "small" or self.skip_blocks is not None):
            faults.append("Name pictures on which predictions are compared: training pictures, a few hundred.")
        if self.bits is not None and self.max_bytes is not None:
            faults.append("max_bytes chooses the bits; leave one of the two out.")
        if self.keep is not None and not 0 <= self.keep <= 1:
            faults.append(f"keep is a share of predictions, 0 to 1, not {self.keep}.")
        if isinstance(self.skip_blocks, str) and self.skip_blocks != "auto":
            faults.append(f"skip_blocks is auto or positions of blocks, not {self.skip_blocks!r}.")
        refuse(faults)

    def judge(self, classifier: Classifier) -> Judge:
        """Who has heard the adapter as it is."""
        return Judge(self.pictures, classifier.processor, classifier.logits_of)


def export(
    adapter: str | Path,
    folder: str | Path,
    form: str = "merged",
    *,
    revision: str | None = None,
    base_model: str | None = None,
    pictures: Any = None,
    bits: int | None = None,
    max_bytes: int | None = None,
    keep: float | None = None,
    skip_blocks: Sequence[int] | str | None = None,
    tell: Callable[[str], None] | None = None,
    domain: str | None = None,
) -> Path:
    """Write an adapter in a form that needs no hf_cl, or less room, and check it.

    - `merged`: a full model for `AutoModelForImageClassification.from_pretrained`, with class names and image processor, and the same
      log-probabilities. For types that merge (all but prompts) and what has a head alone (method `frozen`), under heads that are linear:
      linear, ridge and fetril on the features as they are, gaussian with a shared covariance. With `skip_blocks` without some of its
      blocks, where that changes few predictions.
    - `onnx`: `model.onnx`, from pixel_values [B, 3, S, S], any B, to logits [B, C], with image processor and a config.json that names the
      classes. For every type and head; where the class names are the head, their text features are inside.
    - `lora`: a stock LORA adapter, for types that are one underneath (GLAD, ASYNC_LORA without unfrozen copies, HYPER_LORA
      with one session). Under a linear head the base must be loaded with as many labels as there are classes; class names stay behind.
    - `truncated`: an adapter as before, whose head of type nested_dropout holds only the dimensions that it keeps.
    - `small`: an adapter as before, for every type, whose file holds its large tensors in few bits.

    Args:
        adapter, revision, base_model: as for `hf_cl.load`.
        folder: a new or empty folder.
        form: `merged`, `onnx`, `lora`, `truncated` or `small`.
        pictures: what `predict` takes, the first 500 of it: on these predictions are compared, for `small` and `skip_blocks`.
        bits: of a value, for `small`: 2, 3, 4 or 8 (default).
        max_bytes: for `small`, in the place of `bits`: how large adapter_model.safetensors may be.
        keep: the least share of predictions that must stay the same; 0.995 for `small`, 0.99 with `skip_blocks`.
        skip_blocks: for `merged`: positions of blocks to leave out, or "auto" for as many as `keep` allows.
        tell: is told what `small` and `skip_blocks` cost, which stands in the folder's README.md too.
        domain: for all images, of an adapter that has norms for several (SESSION_NORM); a merged model needs it.

    Returns the folder. Raises ValueError, with the reason, for what a form cannot express, where too few predictions stay, for a folder
    that holds something, without the extra `onnx`, and what `load` raises; RuntimeError where the export does not give the adapter's
    logits.
    """
    if form not in FORMS:
        raise ValueError(f"The form of an export is one of {', '.join(FORMS)}, not {form!r}.")
    wish = Wish(pictures, bits, max_bytes, keep, skip_blocks)
    wish.check(form)
    if form == "small" and domain is not None:
        raise ValueError("A small adapter has the norms of all domains; leave domain out.")
    place = Path(folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{place} holds something already; choose a new folder.")
    if form == "onnx":
        _check_extra()
    source = adapter_folder(adapter, revision)
    classifier = load(adapter, revision=revision, device="cpu", base_model=base_model)
    if domain is not None:
        classifier.set_domain(domain)
    try:
        told = FORMS[form](classifier, place, wish)
        if form == "small":
            _check_small(classifier, place, base_model)
    except (ValueError, RuntimeError):  # what is wrong or half there is not left for others to find
        shutil.rmtree(place, ignore_errors=True)
        raise
    classifier.processor.save_pretrained(place)
    if form == "small" and (source / NOVELTY_FILE).is_file():
        shutil.copy(source / NOVELTY_FILE, place)
    if told:
        write_export_card(place, form, str(adapter), classifier, told)
        if tell is not None:
            tell(told)
    return place


def _export_merged(classifier: Classifier, folder: Path, wish: Wish) -> str | None:
    if wish.skip_blocks is None:
        write_merged(classifier, folder)
        return None
    skipped = write_merged(classifier, folder, wish.judge(classifier), wish.skip_blocks, 0.99 if wish.keep is None else wish.keep)
    assert skipped is not None
    return f"{str(skipped)[0].upper()}{str(skipped)[1:]}.\n\n{skipped.table()}"


def _export_small(classifier: Classifier, folder: Path, wish: Wish) -> str:
    keep = 0.995 if wish.keep is None else wish.keep
    small = write_small(
        classifier, folder, wish.judge(classifier), bits=8 if wish.bits is None else wish.bits, max_bytes=wish.max_bytes, keep=keep
    )
    return f"{small}."


@torch.no_grad()
def _check_small(classifier: Classifier, folder: Path, base_model: str | None) -> None:
    """Raise RuntimeError unless what is loaded is to the bit what `classifier` is by now."""
    classifier.processor.save_pretrained(folder)
    pixels = pixels_of_noise(classifier)
    if not torch.equal(classifier.logits_of(pixels), load(folder, device="cpu", base_model=base_model).logits_of(pixels)):
        raise RuntimeError("The small adapter, loaded again, does not give what it stands for. It was deleted.")


def _export_onnx(classifier: Classifier, folder: Path, wish: Wish) -> None:
    import onnxruntime  # noqa: PLC0415 (an extra)

    module, pixels = Logits(classifier).eval(), pixels_of_noise(classifier)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _write_onnx(module, pixels, folder / ONNX_FILE)
    except torch.onnx.OnnxExporterError as error:
        raise RuntimeError(f"torch.onnx cannot export this model: {str(error).splitlines()[0]}") from error
    base: Any = classifier.model.get_base_model()
    config = base.config if isinstance(base, PreTrainedModel | OpenClipForImageClassification) else PretrainedConfig()
    name_classes(config, classifier.class_names)
    config.save_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    for count in (1, len(pixels)):
        found: Any = session.run(["logits"], {"pixel_values": pixels[:count].numpy()})[0]
        compare(module(pixels[:count]), torch.from_numpy(found), "The ONNX model")


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


def _check_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        raise ValueError("ONNX needs the extra: pip install '.[onnx]' in the clone of hf_cl.")


def _export_lora(classifier: Classifier, folder: Path, wish: Wish) -> None:
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
        raise ValueError(f"{kind_of(classifier)} is no LoRA underneath; GLAD and ASYNC_LORA are.")


def _export_truncated(classifier: Classifier, folder: Path, wish: Wish) -> None:
    write_truncated(classifier, pixels_of_noise(classifier), folder)


FORMS: dict[str, Callable[[Classifier, Path, Wish], str | None]] = {
    "merged": _export_merged,
    "onnx": _export_onnx,
    "lora": _export_lora,
    "truncated": _export_truncated,
    "small": _export_small,
}
"""Form -> what writes it, and says what it costs, where it costs something."""
