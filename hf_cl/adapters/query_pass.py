"""What stands before each forward of a vision tower: a pass of the untouched tower, one vector per image, by which an adapter chooses what
it adds to that image.

It hangs on the tower itself, so it runs in every way of calling the model: inside a PeftModel, under transformers' `load_adapter`, in a
`pipeline`.

Shapes: B batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from hf_cl.adapters.bases import OPEN_CLIP, family_of, signature, vision_tower
from hf_cl.adapters.modes import evaluating

_TOWERS = ("vit", "deit", "dinov2", "vision_model")
_POOLED = ("clip_vision", "clip", "siglip_vision", "siglip")
"""Families whose query is the pooled output: CLIP's class token after its norm, SigLIP's attention pooling."""


Query = Literal["output", "last", "penultimate"]
"""Where the query is taken: the tower's output, or its class token after the last block or the one before it, without the norm."""


class Asks(Protocol):
    """A layer that makes something before each forward."""

    def asks(self) -> bool:
        """Whether it would make something now."""
        ...

    def needs_query(self) -> Query | None:
        """Which query what it makes depends on; where all say None, the tower runs once."""
        ...

    def rest(self) -> Any:
        """Be as if there were no adapter until `answer` or `wake`; returns what `wake` takes."""
        ...

    def wake(self, before: Any) -> None:
        """Be as before `rest`."""
        ...

    def answer(self, query: Any) -> Tensor | None:
        """Make what the forward will need from the query [B, D], None where no layer needs one; returns a tensor of it that has a
        gradient, where one has."""
        ...

    def forget(self) -> None:
        """Let go of what only the forward needed."""
        ...


class QueryPass:
    """The pre-forward hook of one tower, shared by all adapters and layers inside.

    The query is the tower's own class token behind its last norm, to the bit that of the base, in eval mode and without gradient. What the
    layers made of it goes with the forward; under gradient checkpointing, where layers run again, with their part of the backward pass. A
    forward without gradient in between (of a frozen role, of evaluation) puts back what stood before it.
    """

    def __init__(self, tower: nn.Module, family: str) -> None:
        self.family = family
        self.layers: Sequence[Asks] = ()
        self._tower = (tower,)  # a tuple: the hook is no part of the tower's modules
        self._inside = False
        self._kept: Any = None
        """Inside of `keeping`: pixels, by identity -> {(kind, version of the pixels): query}."""
        self._pending: set[int] = set()
        self._before: list[list[Any] | None] = []
        self._handles = [
            tower.register_forward_pre_hook(self._ask, with_kwargs=True),  # pyright: ignore[reportAttributeAccessIssue] (torch's decorator)
            tower.register_forward_hook(self._done, always_call=True),  # pyright: ignore[reportAttributeAccessIssue] (likewise)
        ]

    @classmethod
    def on(cls, model: nn.Module, layers: Sequence[Asks]) -> Self:
        """The one of the model's vision tower, made where there is none, serving `layers`."""
        tower = _tower(model)
        owners = [getattr(hook, "__self__", None) for hook in tower._forward_pre_hooks.values()]  # a hook of another may be a function
        found = next((owner for owner in owners if isinstance(owner, cls)), None) or cls(tower, family_of(model))
        found.layers = layers
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}  # known by identity, which a copy does not have

    def query(self, pixel_values: Tensor, kind: Query = "output") -> Tensor:
        """[B, 3, S, S] -> [B, D] the query alone, without the forward that it is asked for."""
        before = [layer.rest() for layer in self.layers]
        try:
            return self._query(kind, self._tower[0], (pixel_values,), {})
        finally:
            for layer, state in zip(self.layers, before, strict=True):
                layer.wake(state)

    def input_of(self, layer: nn.Module, pixel_values: Tensor) -> Tensor:
        """What a layer of the tower would be given for these images, in eval mode and without gradient; nothing behind it runs."""
        self._inside = True
        try:
            with torch.no_grad(), evaluating(self._tower[0]):
                return _before(layer, self._tower[0], (pixel_values,), {})
        finally:
            self._inside = False

    def kinds(self) -> list[Query]:
        """Which queries the next forward will ask for, in the mode that the layers are in."""
        asked: list[Query | None] = [layer.needs_query() for layer in self.layers if layer.asks()]
        different = dict.fromkeys(asked)
        return [kind for kind in different if kind is not None]

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside, a tensor of pixels that comes again has the query that it had, or that `tell` says, without a pass.

        For whoever knows that the untouched tower stays as it is meanwhile: several updates on a batch, a rule that looks at it twice,
        tests whose queries are kept. Pixels are known by identity, and as long as nobody writes into them; a query goes with its pixels.
        """
        before, self._kept = self._kept, WeakTensorKeyDictionary()
        try:
            yield
        finally:
            self._kept = before

    def tell(self, pixel_values: Tensor, kind: Query, query: Tensor) -> None:
        """Inside of `keeping`: the query [B, D] of these pixels."""
        self._kept.setdefault(pixel_values, {})[kind, pixel_values._version] = query

    def remove(self) -> None:
        """Take the hooks off the tower."""
        for handle in self._handles:
            handle.remove()

    @torch.compiler.disable
    def _ask(self, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._inside:
            return
        asking = [layer for layer in self.layers if layer.asks()]
        graded = torch.is_grad_enabled()
        if asking and graded and self._pending and tower.training:
            self._before.append(None)
            raise RuntimeError(
                "Two forwards with gradient before one backward, under gradient checkpointing: the layers of the first would run again "
                "with the rows of the second. Call backward after each forward, or turn gradient checkpointing off."
            )
        self._before.append([layer.rest() for layer in self.layers])
        if not asking:
            return
        queries: dict[Query | None, Tensor | None] = {None: None}
        for layer in asking:
            kind = layer.needs_query()
            if kind not in queries:
                queries[kind] = self._known_or_asked(kind, tower, args, kwargs)  # pyright: ignore[reportArgumentType]
            made = layer.answer(queries[kind])
            if graded and made is not None and made.requires_grad:
                self._pending.add(id(layer))
                made.register_hook(partial(self._settle, layer))

    def _known_or_asked(self, kind: Query, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        pixels = args[0] if args else kwargs["pixel_values"]
        if self._kept is None or pixels.is_inference():  # an inference tensor does not tell whether it was written to
            return self._query(kind, tower, args, kwargs)
        known = self._kept.setdefault(pixels, {})
        if (kind, pixels._version) not in known:
            known[kind, pixels._version] = self._query(kind, tower, args, kwargs)
        return known[kind, pixels._version]

    def _query(self, kind: Query, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        self._inside = True
        try:
            with torch.no_grad(), evaluating(tower):
                if kind != "output":
                    return _class_token(kind, tower, args, kwargs)
                output = tower(*args, **kwargs)
        finally:
            self._inside = False
        if self.family == OPEN_CLIP:
            return output[0] if isinstance(output, tuple) else output  # [B, E]
        return output[1] if self.family in _POOLED else output[0][:, 0]  # [B, D]

    @torch.compiler.disable
    def _done(self, tower: nn.Module, args: Any, output: Any) -> None:
        if self._inside:
            return
        before = self._before.pop()
        if before is None:  # the forward was refused
            return
        if not torch.is_grad_enabled():
            for layer, state in zip(self.layers, before, strict=True):
                layer.wake(state)
        elif not _checkpointed(tower):
            self._pending.clear()
            for layer in self.layers:
                layer.forget()

    def _settle(self, layer: Asks, gradient: Tensor) -> None:
        """The layer's part of the backward pass is done."""
        self._pending.discard(id(layer))
        layer.forget()


class _Reached(Exception):
    """Ends a pass at a block."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


def _before(layer: nn.Module, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The input of a layer."""

    def stop(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        raise _Reached(inputs[0])

    handle = layer.register_forward_pre_hook(stop)
    try:
        tower(*args, **kwargs)
    except _Reached as reached:
        return reached.tokens
    finally:
        handle.remove()
    raise RuntimeError(f"{type(tower).__name__} has not run {type(layer).__name__}.")


def _class_token(kind: Query, tower: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:  # [B, D]
    """After the last block, or after the one before it, which then is the last that runs."""
    block = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)[-1]
    if kind == "penultimate":
        return _before(block, tower, args, kwargs)[:, 0]

    def after(block: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    handle = block.register_forward_hook(after)
    try:
        tower(*args, **kwargs)
    except _Reached as reached:
        return reached.tokens[:, 0]
    finally:
        handle.remove()
    raise RuntimeError(f"{type(tower).__name__} has not run its last block.")


def query_width(model: nn.Module) -> int:
    """Width of the query: the tower's, or that of open_clip's image embedding."""
    return vision_tower(model).output_dim if family_of(model) == OPEN_CLIP else signature(model)["hidden_size"]


def query_misfits(model: nn.Module) -> list[str]:
    """Why there is no query on a base, a sentence each."""
    tower: Any = model
    if family_of(model) in ("siglip", "siglip_vision") and "head" not in dict(tower.get_submodule("vision_model").named_children()):
        return ["The query is the pooled output of the vision tower, and this SigLIP has none (vision_use_head)."]
    return []


def _tower(model: Any) -> nn.Module:
    """The module that takes pixels and owns the layers; a bare tower is the model itself."""
    if family_of(model) == OPEN_CLIP:
        return vision_tower(model)
    children = dict(model.named_children())
    return next((children[name] for name in _TOWERS if name in children), model)


def _checkpointed(tower: nn.Module) -> bool:
    return any(vars(module).get("gradient_checkpointing") or vars(module).get("grad_checkpointing") for module in tower.modules())
