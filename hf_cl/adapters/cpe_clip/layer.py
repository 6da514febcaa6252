"""The tuner layer of CPE_CLIP: it owns the prompts; the sites (hooks.py) read them from here.

One layer owns all tensors of an adapter, although they are used all over both towers: transformers refuses tuners with state outside their
layers. Under FSDP it must stay in the root unit.

Shapes: K layers with prompts, L prompts of one layer, D width of a tower, C texts, T text positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_cl._peft import TunerLayer
from hf_cl.adapters.cpe_clip.sites import TextTower


@dataclass(frozen=True)
class PromptSettings:
    """What the layer needs to know of one adapter's config and base."""

    num_tokens: int
    depth: int
    text_width: int | None
    """None: no prompts in the text tower."""
    vision_width: int | None
    coupling: str
    vision_mode: str
    init: str
    init_seed: int | None


class CPEClipLayer(TunerLayer):
    """Wraps one module without changing it and owns the prompts of its adapters.

    `cpe_clip_prompts.<adapter>` [K, L, D] are the text prompts, or the vision prompts where the text tower has none;
    `cpe_clip_proj.<adapter>` the linear layer (or K of them) to the vision width; `cpe_clip_vision_prompts.<adapter>` [K, L, D] the vision
    prompts of `coupling="independent"`.
    """

    runs_whole = False  # hooks on the towers ask for the prompts

    adapter_layer_names: tuple[str, ...] = ("cpe_clip_prompts", "cpe_clip_vision_prompts", "cpe_clip_proj")
    other_param_names: tuple[str, ...] = ("settings",)

    def __init__(self, base_layer: nn.Module, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.settings: dict[str, PromptSettings] = {}
        self.cpe_clip_prompts = nn.ParameterDict()
        self.cpe_clip_vision_prompts = nn.ParameterDict()
        self.cpe_clip_proj = nn.ModuleDict()
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        self._checked: tuple[Tensor | None, int, int] = (None, 0, 0)
        self.in_features = self.out_features = next(base_layer.parameters()).shape[-1]  # peft's own tests ask tuner layers for these

    def update_layer(self, adapter_name: str, settings: PromptSettings, words: Tensor | None, inference_mode: bool) -> None:
        """Add the prompts of one adapter.

        Args:
            adapter_name: its name.
            settings: shapes and modes.
            words: [L, D] token embeddings for layer 0, with init "words".
            inference_mode: peft's own meaning.
        """
        self.settings[adapter_name] = settings
        generator = None if settings.init_seed is None else torch.Generator().manual_seed(settings.init_seed)
        width = settings.text_width or settings.vision_width
        prompts = _new_prompts(settings, width, generator)  # pyright: ignore[reportArgumentType] # [K, L, D]
        if words is not None:
            prompts[0] = words
        self.cpe_clip_prompts[adapter_name] = nn.Parameter(prompts)
        if settings.text_width and settings.vision_width:
            if settings.coupling == "independent":
                self.cpe_clip_vision_prompts[adapter_name] = nn.Parameter(_new_prompts(settings, settings.vision_width, generator))
            else:
                count = settings.depth if settings.coupling == "per_layer_linear" else 1
                maps = [_new_linear(settings.text_width, settings.vision_width, generator) for _ in range(count)]
                self.cpe_clip_proj[adapter_name] = maps[0] if settings.coupling == "shared_linear" else nn.ModuleList(maps)
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_layer(*args, **kwargs)

    # What the sites ask
    def _active(self) -> str | None:
        if self.disable_adapters:
            return None
        return next((name for name in self.active_adapters if name in self.settings), None)

    def _in_memory(self) -> str | None:
        """The active adapter, whose prompts are there to be read."""
        name = self._active()
        if name is not None:
            self.refuse_offloaded(*(rows[name] for rows in (self.cpe_clip_prompts, self.cpe_clip_vision_prompts) if name in rows))
        return name

    @property
    def num_text_prompts(self) -> int:
        """L of the active adapter, 0 where it leaves the text tower alone."""
        name = self._active()
        return 0 if name is None or self.settings[name].text_width is None else self.settings[name].num_tokens

    @property
    def vision_mode(self) -> str:
        """Mode of the active adapter."""
        return self.settings[self.active_adapters[0]].vision_mode

    def text_prompts(self, index: int) -> Tensor | None:
        """[L, D] text prompts of layer `index`, None where the active adapter has none there."""
        name = self._in_memory()
        if name is None or self.settings[name].text_width is None or index >= self.settings[name].depth:
            return None
        return self.cpe_clip_prompts[name][index]

    def vision_prompts(self, index: int) -> Tensor | None:
        """[L, D] vision prompts of layer `index`, None where the active adapter has none there."""
        name = self._in_memory()
        if name is None:
            return None
        settings = self.settings[name]
        if settings.vision_width is None or index >= settings.depth:
            return None
        if settings.text_width is None:
            return self.cpe_clip_prompts[name][index]
        if settings.coupling == "independent":
            return self.cpe_clip_vision_prompts[name][index]
        maps = self.cpe_clip_proj[name]
        to_vision = maps[index] if isinstance(maps, nn.ModuleList) else maps
        return to_vision(self.cpe_clip_prompts[name][index])

    def appended_rows(self, depth: int) -> int:
        """How many vision rows stand behind the patches after the last of `depth` layers."""
        name = self._active()
        if name is None or self.settings[name].vision_width is None:
            return 0
        settings = self.settings[name]
        return settings.num_tokens * (1 if settings.vision_mode == "replace" else min(settings.depth, depth))

    @torch.compiler.disable  # pyright: ignore[reportArgumentType] (it asks for values)
    def check_room(self, ids: Tensor, drop: int, tower: TextTower) -> None:
        """Raise ValueError where the last `drop` columns of `ids` [C, T], which make room for the prompts, hold text and not padding.

        The same tensor is looked at once: looking waits for the device.
        """
        known, version, dropped = self._checked
        now = 0 if ids.is_inference() else ids._version
        if drop == 0 or (ids is known and (now, drop) == (version, dropped)):
            return
        given, ids = ids, ids.view(-1, ids.shape[-1])
        keep = ids.shape[1] - drop
        if tower.pooling == "last":  # bidirectional towers pad up to the end: the freed columns and the one before are all padding
            fits = (ids[:, keep - 1 :] == ids[:, -1:]).all(dim=1)  # [C]
        elif tower.pooling == "argmax":
            fits = ids.argmax(dim=1) < keep
        else:
            fits = (ids == tower.eos_id).int().argmax(dim=1) < keep
        if not bool(fits.all()):
            row = int((~fits).int().argmax())
            raise ValueError(
                f"Text {row} of {len(ids)} leaves no room for {self.num_text_prompts} prompts in the context of {tower.max_positions} "
                "tokens. Shorten it, or use fewer prompt tokens."
            )
        self._checked = (given, now, drop)

    # peft's own calls
    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        if len(names) > 1:
            raise ValueError(f"Two CPE_CLIP adapters cannot be active at once, got {names}: each brings prompts of its own. Activate one.")
        super().set_adapter(names, inference_mode=inference_mode)

    def delete_adapter(self, adapter_name: str) -> None:
        super().delete_adapter(adapter_name)
        if not self.settings:
            self.remove_hooks()

    def remove_hooks(self) -> None:
        """Take the sites off the towers."""
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError("Prompts are inputs and cannot be merged into weights; use `unload()` for the base model.")

    def unmerge(self) -> None:
        raise NotImplementedError("Prompts are never merged, so there is nothing to unmerge.")


def _new_prompts(settings: PromptSettings, width: int, generator: torch.Generator | None) -> Tensor:
    """[K, L, D]: Xavier's uniform on the whole tensor (fan_in = L D, fan_out = K D), or N(0, 0.02)."""
    prompts = torch.empty(settings.depth, settings.num_tokens, width)
    if settings.init != "xavier":
        return prompts.normal_(0.0, 0.02, generator=generator)
    bound = math.sqrt(6 / (width * (settings.num_tokens + settings.depth)))
    return prompts.uniform_(-bound, bound, generator=generator)


def _new_linear(in_features: int, out_features: int, generator: torch.Generator | None) -> nn.Linear:
    """torch's default initial values for a linear layer, drawn from `generator`."""
    linear, bound = nn.Linear(in_features, out_features, device="meta"), in_features**-0.5
    linear.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound, generator=generator))
    linear.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound, generator=generator))
    return linear
