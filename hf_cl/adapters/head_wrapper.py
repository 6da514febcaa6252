"""The classifier of the base model, replaced by one head per adapter; class names follow the active adapter.

Shapes: B batch, D feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hf_cl._peft import ModulesToSaveWrapper, TensorlessLayer
from hf_cl.adapters.bases import signature
from hf_cl.adapters.config import HeadedConfig
from hf_cl.adapters.pooled import PooledOutput
from hf_cl.adapters.token_map import TokenMap, pooled_map
from hf_cl.contracts import Head
from hf_cl.heads import build_head, reads_tokens


class _EnableSwitch(TensorlessLayer):
    """Tells the head wrapper when adapters are switched on.

    transformers' `enable_adapters()` visits tuner layers only and would leave the head off, so one tuner layer, without tensors, sits
    inside the wrapper. It follows the wrapper in everything else.
    """

    def __init__(self, wrapper: HeadWrapper) -> None:
        super().__init__()
        self._wrapper = (wrapper,)  # a tuple: no module may register its own ancestor

    @property
    def in_features(self) -> int:
        return self._wrapper[0].in_features

    @property
    def out_features(self) -> int:
        """Classes of the active head."""
        wrapper = self._wrapper[0]
        return sum(wrapper.head(name).num_classes for name in wrapper.active_adapters)

    @property
    def active_adapter(self) -> str | list[str]:
        return self._wrapper[0].active_adapter

    @property
    def disable_adapters(self) -> bool:
        return self._wrapper[0].disable_adapters

    def enable_adapters(self, enabled: bool) -> None:
        if enabled:
            self._wrapper[0].enable_adapters(True)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """The wrapper is asked by peft and transformers themselves."""

    def delete_adapter(self, adapter_name: str) -> None:
        """Likewise."""


class GivesFacts(Protocol):
    """A tuner layer that knows something of each image."""

    def take_facts(self) -> Mapping[str, Tensor]:
        """[B, ...] each, of the forward that has just run through the tower; handed out once."""
        ...


class HeadWrapper(ModulesToSaveWrapper):
    """One head per adapter in front of the untouched base classifier.

    It sits at the classifier's place before peft injects, so peft finds its own `ModulesToSaveWrapper` there and saves, loads, switches
    and deletes through it. Two things differ from peft's: `update` *builds* the head from its spec and class names instead of copying the
    base's, so the base may have any number of labels; and `id2label`, `label2id` and `num_labels` of the model follow the active head.

    Between `capture_features` and `take_features` it keeps its input: the training loop gets features and logits from one forward.

    A head whose spec says `pool: pooled` gets the vision tower's pooled output instead of what the model's class feeds its classifier, and
    one that reads tokens the map of patch tokens; the base's own classifier, while adapters are off, gets what it always got.

    A head that reads facts of the images (`Head.reads_given`) finds those in `given` that the adapter's layers made in the same forward.

    In eval mode logits are divided by the config's `temperature`: one place for every loading route.

    Args:
        classifier: the base's own.
        model: whose classifier it is.
        in_features: D.
        config: of the adapter; class names, head and temperature are read from it as they are now.
    """

    def __init__(self, classifier: nn.Module, adapter_name: str, model: Any, in_features: int, config: HeadedConfig) -> None:
        nn.Module.__init__(self)
        self.in_features = in_features
        self.configs: dict[str, HeadedConfig] = {adapter_name: config}
        self._labelled: tuple[Any, ...] = (model,)
        self._base_labels = dict(model.config.id2label)
        self._capture = False
        self._features: Tensor | None = None
        self._informed: tuple[GivesFacts, ...] = ()
        self._taps: dict[str, PooledOutput | TokenMap] = {}
        super().__init__(classifier, adapter_name)

    def update(self, adapter_name: str, tied_module: nn.Module | None = None, **kwargs: Any) -> None:
        if adapter_name not in self.modules_to_save and adapter_name in self.configs:
            spec, names = self.configs[adapter_name].head or {}, self._names(adapter_name)
            width = signature(self._labelled[0])["hidden_size"] if reads_tokens(spec) else self.in_features
            head = build_head(spec, width, len(names), device=self._device(), dtype=torch.float32)
            self.modules_to_save[adapter_name] = head.requires_grad_(False)
        super().update(adapter_name, tied_module, **kwargs)
        self.sync_labels()

    def _names(self, adapter_name: str) -> list[str]:
        return self.configs[adapter_name].class_names or []

    def _device(self) -> torch.device:
        return next(self._labelled[0].parameters()).device

    def head(self, adapter_name: str) -> Head:
        """The head of one adapter."""
        return self.modules_to_save[adapter_name]  # pyright: ignore[reportReturnType]

    def grow(self, adapter_name: str, class_names: Sequence[str]) -> None:
        """Append the classes of a new session; rows of known classes keep their values to the bit."""
        if class_names:
            self.head(adapter_name).grow(class_names)
        self._names(adapter_name).extend(class_names)
        self.sync_labels()

    def capture_features(self) -> None:
        """Keep the input of the next forward for `take_features`."""
        self._capture = True

    def take_features(self) -> Tensor:
        """[B, D], or [B, H, W, D], the head's input in the last forward; handed out once, so that no graph outlives its step."""
        features, self._features, self._capture = self._features, None, False
        if features is None:
            raise RuntimeError("take_features: the model has not run since capture_features")
        return features

    def attach_taps(self, model: nn.Module) -> None:
        """Put hooks on the vision tower for what heads read of it, where none are yet."""
        kinds = {self._source(name) for name in self.configs}
        if "pooled" in kinds and "pooled" not in self._taps:
            self._taps["pooled"] = PooledOutput(model.get_submodule("vision_model"))
        if "tokens" in kinds and "tokens" not in self._taps:
            self._taps["tokens"] = TokenMap(model)

    def detach_taps(self) -> None:
        """Take the hooks off that no head needs any more; all of them where no adapter is left."""
        needed = {self._source(name) for name in self.configs}
        for kind in self._taps.keys() - needed:
            self._taps.pop(kind).remove()

    def _source(self, adapter_name: str) -> str:
        """What an adapter's head reads: "features", "pooled" or "tokens"."""
        config = self.configs[adapter_name]
        if config.reads_pooled:
            return "pooled"
        return "tokens" if reads_tokens(config.head or {}) else "features"

    @property
    def source(self) -> str:
        """What the active head reads: "features", as the model's class feeds them, "pooled" or "tokens"."""
        return next((self._source(name) for name in self.active_adapters if name in self.configs), "features")

    def attach_switch(self) -> None:
        """Add the switch for transformers' `enable_adapters`, once peft has injected.

        Before the first injection it must not be there: peft freezes the base only where it finds no tuner layer yet.
        """
        if "switch" not in self._modules:
            self.switch = _EnableSwitch(self)

    def inform(self, layers: Sequence[GivesFacts]) -> None:
        """Let heads read what these layers make of the images."""
        self._informed = tuple(layers)  # a tuple: they are registered elsewhere

    def judge(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits of features as `take_features` gives them, without the base."""
        for layer in self._informed:
            layer.take_facts()
        self._take()  # what the tower said when it ran by itself belongs to other images
        return self(features)

    def _take(self) -> dict[str, Tensor | None]:
        """What the towers said in this forward; of all taps, so that nothing is left of one whose head is not active."""
        return {kind: tap.take() for kind, tap in self._taps.items()}

    def forward(self, features: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # [B, D] -> [B, C]
        rows = self._take().get(self.source)
        if rows is None:  # the head reads what it is given
            rows = features
        elif self.source == "tokens":
            rows = pooled_map(rows, self.head(self.active_adapters[0]).grid)  # [B, H, W, D]
        off = self.disable_adapters or not self.active_adapters
        if not off:
            weight = next(self.modules_to_save[self.active_adapters[0]].parameters(), None)
            if weight is not None and rows.dtype != weight.dtype and not torch.is_autocast_enabled(rows.device.type):
                rows = rows.to(weight.dtype)  # the head stays float32 on a half-precision base
        if self._capture:
            self._features = rows
        head = None if off else self.head(self.active_adapters[0])
        if head is None or not head.reads_given:
            logits = super().forward(features if off else rows, *args, **kwargs)
        else:
            head.given = {name: fact for layer in self._informed for name, fact in layer.take_facts().items()}
            try:
                logits = super().forward(rows, *args, **kwargs)
            finally:
                head.given = {}  # called alone it knows nothing
        return logits if off else self._calibrated(logits)

    @property
    def temperature(self) -> float | None:
        """By what the active adapter's logits are divided in eval mode; None: by nothing."""
        name = next(iter(self.active_adapters), None)
        return self.configs[name].temperature if name in self.configs else None

    def _calibrated(self, logits: Tensor) -> Tensor:  # [B, C] -> [B, C]
        return logits if self.temperature is None or self.training else logits / self.temperature

    # Labels: transformers' set_adapter, disable_adapters and delete_adapter walk over modules and never reach the tuner, so the wrapper
    # itself keeps them in step.
    def sync_labels(self) -> None:
        """Write the class names of the active head (or of the base) into the model's config."""
        active = None if self.disable_adapters or not self.active_adapters else self.active_adapters[0]
        id2label = dict(enumerate(self._names(active))) if active in self.configs else dict(self._base_labels)
        for model in self._labelled:
            model.config.id2label = id2label
            model.config.label2id = {label: i for i, label in id2label.items()}
            model.num_labels = len(id2label)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode)
        self.sync_labels()

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self.sync_labels()

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        super().delete_adapter(adapter_name, new_active_adapters)
        self.configs.pop(adapter_name, None)
        self.detach_taps()
        self.sync_labels()
