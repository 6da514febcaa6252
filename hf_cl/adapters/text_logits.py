"""`model(pixel_values=...)` of a base with two towers whose adapter has a text head: logits over the class names.

transformers' CLIP and SigLIP want `input_ids` in every forward. Here the adapter's class names are the texts, so pixels are enough, and the
model is an image classifier for Trainer, `pipeline` and loops of one's own. With `input_ids`, or without the adapter's class names, the
forward is the model's own.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.modeling_outputs import ImageClassifierOutput

from hf_cl._peft import BaseTunerLayer
from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.text_classifier import TextHead
from hf_cl.adapters.towers import encode_images

OPEN_CLIP_PREFIX = "open_clip:"
"""In front of `<model>/<weights>`, where a base is one of open_clip's."""


class TextLogits:
    """Stands in the place of `model.forward`. An object and no closure, so that a copied or pickled model calls its own towers.

    Args:
        model: the base with two towers, with its adapter inside.
        configs: the tuner's, by the adapters' names.
    """

    def __init__(self, model: nn.Module, configs: Mapping[str, Any]) -> None:
        self.model, self.configs = model, configs
        self.before: Callable[..., Any] | None = vars(model).get("forward")  # accelerate's offloading puts one there
        self.labels = _labels(model)
        self.tokenizer: Any = None
        """The base's own; None: found by the name that the base was loaded under, at the first call that needs it."""
        self._head: TextHead | None = None
        self._names: list[str] = []

    @classmethod
    def of(cls, model: nn.Module) -> TextLogits | None:
        """The one in the place of the model's forward."""
        found = vars(model).get("forward")
        return found if isinstance(found, cls) else None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_head": None, "_names": []}  # made again where it is needed

    @property
    def __signature__(self) -> inspect.Signature:
        """That of the model's own forward, with `pixel_values` and `labels`: Trainer keeps the columns that stand here."""
        own = list(inspect.signature(self.before or type(self.model).forward).parameters.values())[0 if self.before else 1 :]
        known = {parameter.name for parameter in own}
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in ("pixel_values", "labels")
            if name not in known
        ]
        last = [parameter for parameter in own if parameter.kind == inspect.Parameter.VAR_KEYWORD]
        return inspect.Signature([*(parameter for parameter in own if parameter not in last), *more, *last])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        config = self.config
        if args or kwargs.get("pixel_values") is None or kwargs.get("input_ids") is not None or config is None:
            return self.before(*args, **kwargs) if self.before is not None else type(self.model).forward(self.model, *args, **kwargs)
        return self._classify(config, **kwargs)

    def _classify(
        self,
        config: HeadedConfig,
        pixel_values: Tensor,  # [B, 3, S, S]
        labels: Tensor | None = None,  # [B]
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **of_the_tower: Any,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        self.sync_labels()
        inputs = {name: value for name, value in of_the_tower.items() if value is not None}
        logits = self._current_head(config)(encode_images(self.model, pixel_values, **inputs))  # [B, C]
        loss = None
        if labels is not None:
            targets = labels.to(logits.device)
            if num_items_in_batch is None:
                loss = F.cross_entropy(logits, targets)
            else:  # Trainer's own count over the micro-batches of a step
                loss = F.cross_entropy(logits, targets, reduction="sum") / num_items_in_batch
        output: Any = ImageClassifierOutput(loss=loss, logits=logits)  # pyright: ignore[reportArgumentType, reportCallIssue]
        return output.to_tuple() if return_dict is False else output

    def _current_head(self, config: HeadedConfig) -> TextHead:
        names = list(config.class_names or [])
        if self._head is None or self._head.config is not config or self._names != names:
            if self.tokenizer is None:
                self.tokenizer = _tokenizer_of(self.model)
            self._head, self._names = TextHead(self.model, config, self.tokenizer), names
        return self._head.train(self.model.training)

    @property
    def config(self) -> HeadedConfig | None:
        """The active adapter's, where it has a text head and class names. Switched off, its prompts rest, and its names stay."""
        layer = next((module for module in self.model.modules() if isinstance(module, BaseTunerLayer)), None)
        if layer is None or not layer.active_adapters:
            return None
        config = self.configs.get(layer.active_adapters[0])
        return config if isinstance(config, HeadedConfig) and config.has_text_head and config.class_names else None

    def sync_labels(self) -> None:
        """Write the class names of the active adapter, or the base's own labels, into the model's config (open_clip's has none)."""
        model_config: Any = vars(self.model).get("config")
        if model_config is None:
            return
        config = self.config
        id2label = dict(self.labels) if config is None else dict(enumerate(config.class_names or []))
        if model_config.id2label != id2label:
            model_config.id2label = id2label
            model_config.label2id = {label: i for i, label in id2label.items()}


def place_text_logits(model: nn.Module, configs: Mapping[str, Any]) -> None:
    """Give the base its forward from pixels to logits, once for all of its adapters, whose configs these are."""
    if TextLogits.of(model) is None:
        model.forward = TextLogits(model, configs)  # pyright: ignore[reportAttributeAccessIssue]


def remove_text_logits(model: nn.Module) -> None:
    """Give the base its own forward and labels back."""
    placed = TextLogits.of(model)
    if placed is None:
        return
    del model.forward
    if placed.before is not None:
        model.forward = placed.before  # pyright: ignore[reportAttributeAccessIssue]
    placed.sync_labels()  # no adapter is in the model any more


def sync_text_labels(model: nn.Module) -> None:
    """After adapters were switched, grown or deleted."""
    placed = TextLogits.of(model)
    if placed is not None:
        placed.sync_labels()


def set_tokenizer(model: nn.Module, tokenizer: Any) -> None:
    """Say how a text head reads class names, where the base was not loaded by a name under which its tokenizer lies.

    Args:
        model: a PeftModel of hf_cl, or its base, with two towers and a text head.
        tokenizer: the base's own, of transformers or of open_clip.

    Raises ValueError for a model without a text head.
    """
    for module in model.modules():
        placed = TextLogits.of(module)
        if placed is not None:
            placed.tokenizer, placed._head = tokenizer, None
            return
    raise ValueError("This model has no text head, which alone reads class names: give its adapter head={'type': 'text'}.")


def _labels(model: nn.Module) -> dict[int, str]:
    config: Any = vars(model).get("config")
    return {} if config is None else dict(config.id2label)


def _tokenizer_of(model: Any) -> Any:
    opened = family_of(model) == OPEN_CLIP
    name = vars(model).get("name_or_path", "") if opened else model.config.name_or_path
    missing = (
        "The class names are the head of this adapter, and they are read through the base's tokenizer, which was not found"
        f"{f' under {name!r}' if name else ': the base has no name'}. Give it once: hf_cl.set_tokenizer(model, tokenizer)."
    )
    if not name:
        raise ValueError(missing)
    if opened:
        import open_clip  # noqa: PLC0415 (an extra, which is there where its model is)

        return open_clip.get_tokenizer(name.removeprefix(OPEN_CLIP_PREFIX).partition("/")[0])
    try:
        revision = vars(model.config).get("_commit_hash")  # of a base from the Hub
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(missing) from error
