"""The sites where prompts enter the towers: callables that read the layer which owns the prompts.

They are instances, not closures: `copy.deepcopy` and pickle carry an instance along with the layer it points to, whereas a closure in a
copied model would go on reading the original's prompts. Prompts are computed inside the hook, from the leaves: gradient checkpointing then
recomputes them like everything else.

Shapes: C texts, B images, T text positions, N image tokens, L prompts of one layer, R appended vision rows, D width of a tower.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hf_cl.adapters.cpe_clip.sites import TextTower, VisionTower

if TYPE_CHECKING:
    from hf_cl.adapters.cpe_clip.layer import CPEClipLayer

PLACEHOLDER = 0
"""Id at the prompts' positions: below every EOS, so that both pooling rules of transformers still find the text's own."""


class TextRoom:
    """Room for L prompts in the ids, before the text model runs: masks, positions and pooling follow from the ids."""

    def __init__(self, layer: CPEClipLayer, tower: TextTower) -> None:
        self.layer, self.tower = layer, tower

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        count = self.layer.num_text_prompts
        if not count:
            return None
        inputs = dict(zip(("input_ids", "attention_mask", "position_ids"), args, strict=False)) | kwargs
        if inputs.get("position_ids") is not None or inputs.get("inputs_embeds") is not None or inputs.get("input_ids") is None:
            raise ValueError(
                "CPE_CLIP places its prompts by the input_ids: position_ids and inputs_embeds of your own need the adapter disabled."
            )
        given = inputs["input_ids"]
        ids = given.view(-1, given.shape[-1])  # [C, T]
        mask = inputs.get("attention_mask")
        too_long = max(ids.shape[1] + count - self.tower.max_positions, 0)
        # the tensor that was given: it is known again, a view of it is not
        self.layer.check_room(given, too_long, self.tower)  # pyright: ignore
        inputs["input_ids"] = _insert(ids, self.tower.first, count, PLACEHOLDER, too_long)  # [C, T+L]
        if mask is not None:
            inputs["attention_mask"] = _insert(mask, self.tower.first, count, 1, too_long)  # [C, T+L]
        return (), inputs


def _insert(rows: Tensor, at: int, count: int, value: int, drop: int) -> Tensor:
    """[C, T] -> [C, T + count - drop]"""
    block = rows.new_full((len(rows), count), value)
    return torch.cat([rows[:, :at], block, rows[:, at : rows.shape[1] - drop]], dim=1)


class TextPrompts:
    """Layer `index`'s prompts in their place: on the output of the embedding for layer 0, on the input of the later layers."""

    def __init__(self, layer: CPEClipLayer, tower: TextTower, index: int) -> None:
        self.layer, self.tower, self.index = layer, tower, index

    def place(self, hidden: Tensor) -> Tensor | None:
        prompts = self.layer.text_prompts(self.index)  # [L, D]
        if prompts is None:
            return None
        at, end = self.tower.first, self.tower.first + len(prompts)
        rows = prompts.to(hidden.dtype).expand(hidden.shape[0], -1, -1)  # [C, L, D]
        return torch.cat([hidden[:, :at], rows, hidden[:, end:]], dim=1)  # [C, T, D]


class TextPromptsAfter(TextPrompts):
    """On an output."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        return self.place(output)


class TextPromptsBefore(TextPrompts):
    """On an input."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden = self.place(args[0])
        return None if hidden is None else (hidden, *args[1:])


class TextRoomInEmbedding(TextPrompts):
    """open_clip: a fixed number of positions and no module around the ids, so the embedding's output gets the prompts and loses L rows."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        prompts = self.layer.text_prompts(self.index)  # [L, D]
        if prompts is None:
            return None
        at, keep = self.tower.first, output.shape[1] - len(prompts)
        self.layer.check_room(args[0], len(prompts), self.tower)  # pyright: ignore
        rows = prompts.to(output.dtype).expand(output.shape[0], -1, -1)  # [C, L, D]
        return torch.cat([output[:, :at], rows, output[:, at:keep]], dim=1)  # [C, T, D]


class TextPromptsOut:
    """open_clip, behind the last layer: without the prompts each position is again the one of its id, which pooling looks up.

    The freed positions at the end repeat the last one, for towers that pool there.
    """

    def __init__(self, layer: CPEClipLayer, tower: TextTower) -> None:
        self.layer, self.tower = layer, tower

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        count = self.layer.num_text_prompts
        if not count:
            return None
        at = self.tower.first
        last = output[:, -1:].expand(-1, count, -1)  # [C, L, D]
        return torch.cat([output[:, :at], output[:, at + count :], last], dim=1)  # [C, T, D]


class VisionPromptsAfter:
    """Layer 0's prompts behind the patches: after the positions, before any normalisation."""

    def __init__(self, layer: CPEClipLayer) -> None:
        self.layer = layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        prompts = self.layer.vision_prompts(0)  # [L, D]
        return None if prompts is None else _append(output, prompts)  # [B, N+L, D]


class VisionPromptsBefore:
    """Layer `index`'s prompts: beside the earlier ones' outputs, in their place, or behind the earlier ones as they were."""

    def __init__(self, layer: CPEClipLayer, index: int) -> None:
        self.layer, self.index = layer, index

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        prompts = self.layer.vision_prompts(self.index)  # [L, D]
        if prompts is None:
            return None
        hidden, mode = args[0], self.layer.vision_mode
        drop = {"accumulate": 0, "replace": len(prompts), "accumulate_same": len(prompts) * self.index}[mode]
        if mode == "accumulate_same":
            earlier = [self.layer.vision_prompts(i) for i in range(self.index)]
            prompts = torch.cat([*earlier, prompts])  # pyright: ignore[reportArgumentType, reportCallIssue] # [R, D]
        return (_append(hidden[:, : hidden.shape[1] - drop], prompts), *args[1:])


def _append(hidden: Tensor, prompts: Tensor) -> Tensor:
    """[B, N, D], [R, D] -> [B, N + R, D]"""
    return torch.cat([hidden, prompts.to(hidden.dtype).expand(hidden.shape[0], -1, -1)], dim=1)


class VisionPromptsOut:
    """Behind the last layer: poolings that average tokens or attend to them must see the image's own only."""

    def __init__(self, layer: CPEClipLayer, tower: VisionTower) -> None:
        self.layer, self.tower = layer, tower

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        count = self.layer.appended_rows(self.tower.depth)
        return output[:, : output.shape[1] - count] if count else None  # [B, N, D]


def install(model: Any, layer: CPEClipLayer, text: TextTower | None, vision: VisionTower | None) -> list[torch.utils.hooks.RemovableHandle]:
    """Put the sites of `layer` on the towers that take its prompts."""
    handles: list[torch.utils.hooks.RemovableHandle] = []
    if text is not None:
        layers: list[nn.Module] = list(model.get_submodule(text.layers))
        embedding = model.get_submodule(text.embedding)
        if text.ids is None:
            handles.append(embedding.register_forward_hook(TextRoomInEmbedding(layer, text, 0)))
            handles.append(layers[-1].register_forward_hook(TextPromptsOut(layer, text)))
        else:
            handles.append(model.get_submodule(text.ids).register_forward_pre_hook(TextRoom(layer, text), with_kwargs=True))
            handles.append(embedding.register_forward_hook(TextPromptsAfter(layer, text, 0)))
        handles += [each.register_forward_pre_hook(TextPromptsBefore(layer, text, i)) for i, each in enumerate(layers) if i > 0]
    if vision is not None:
        layers: list[nn.Module] = list(model.get_submodule(vision.layers))
        handles.append(model.get_submodule(vision.tokens).register_forward_hook(VisionPromptsAfter(layer)))
        handles += [each.register_forward_pre_hook(VisionPromptsBefore(layer, i)) for i, each in enumerate(layers) if i > 0]
        handles.append(layers[-1].register_forward_hook(VisionPromptsOut(layer, vision)))
    return handles
