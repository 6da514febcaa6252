"""The tuner layer of HYPER_LORA: LoRA on a Linear, with factors that the adapter's generator made for this forward.

Shapes: B batch, S sessions, r rank.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl._peft import TunerLayer, check_adapters_to_merge
from hf_cl.adapters.hyper_lora.generator import Generator
from hf_cl.adapters.query_pass import Query


class Made(NamedTuple):
    """What the generator made for a forward."""

    pairs: list[tuple[Tensor, Tensor]]
    """Per layer A [S, r, in] and B [S, out, r]."""
    which: Tensor | None = None
    """[B] the row of each image; None: the only one there is, for all."""


class HyperLoraLayer(TunerLayer):
    """The first layer of an adapter is its host: it holds the generator, so that every way of saving and loading finds it in the model,
    and makes the factors of all layers before each forward (`QueryPass` asks it)."""

    adapter_layer_names: tuple[str, ...] = ("hyper_lora_generator",)
    other_param_names: tuple[str, ...] = ("scaling", "places", "chosen", "by_query", "fixed")

    def __init__(self, base_layer: nn.Linear, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.hyper_lora_generator = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.places: dict[str, tuple[HyperLoraLayer, int]] = {}
        """Adapter -> its host, and which of its layers this is."""
        self.chosen: dict[str, int] = {}
        """Adapter -> the session that all images are of; of a host."""
        self.by_query: dict[str, bool] = {}
        """Adapter -> whether an image's query finds its session; of a host."""
        self.fixed: dict[str, Made] = {}
        """Adapter -> factors that stand in for generated ones; of a host."""
        self._made: dict[str, Made] = {}
        self._facts: dict[str, Tensor] = {}
        self._kept: Tensor | None = None
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_made": {}, "_facts": {}}  # a copy begins without the graph of the last forward

    def generator(self, adapter_name: str) -> Generator:
        """Of an adapter that this layer hosts."""
        return self.hyper_lora_generator[adapter_name]  # pyright: ignore[reportReturnType]

    def _hosted(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.hyper_lora_generator]

    # What the query pass asks a host
    def asks(self) -> bool:
        return not (self.disable_adapters or self.merged) and bool(self._hosted())

    def needs_query(self) -> Query | None:
        return "output" if not self.training and any(self._finds_session(name) for name in self._hosted()) else None

    def _finds_session(self, name: str) -> bool:
        known = name in self.fixed or name in self.chosen or self.generator(name).sessions == 1
        return self.by_query[name] and not known

    def rest(self) -> dict[str, Made]:
        before, self._made, self._facts = self._made, {}, {}
        return before

    def wake(self, before: dict[str, Made]) -> None:
        self._made = before

    def answer(self, query: Tensor | None) -> Tensor | None:
        graded = None
        for name in self._hosted():
            if name in self.fixed:
                self._made[name] = self.fixed[name]
                continue
            generator = self.generator(name)
            self.refuse_offloaded(generator.embedding)
            with torch.autocast(generator.embedding.device.type, enabled=False):
                if query is not None and not self.training and self._finds_session(name):
                    which = generator.session_of_query(query.to(generator.means))  # [B]
                    factors = generator(generator.embeddings())
                else:
                    which, factors = None, generator(self.embedding_of(name)[None])
            self._made[name] = Made(factors.pairs, which)
            if not self.training and len(generator.session_of):
                self._facts.setdefault("own_classes", generator.own_classes(self._session(name)[None] if which is None else which))
            graded = factors.hidden
        return graded

    def forget(self) -> None:
        self._made = {}

    def take_facts(self) -> dict[str, Tensor]:
        """For a head: `own_classes`, which classes are of the session of each image of the last forward, [B, C], or [1, C] for all."""
        facts, self._facts = self._facts, {}
        return facts

    def _session(self, name: str) -> Tensor:
        generator = self.generator(name)
        number = self.chosen.get(name, generator.sessions - 1)
        return torch.full((), number, dtype=torch.int64, device=generator.embedding.device)

    def embedding_of(self, name: str) -> Tensor:
        """[E] of the session that is chosen in eval mode, else of the newest."""
        generator = self.generator(name)
        session = generator.sessions - 1 if self.training else self.chosen.get(name, generator.sessions - 1)
        return generator.embedding if session == generator.sessions - 1 else generator.past[session]

    # The forward
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.disable_adapters and self.merged:
            self.unmerge()
        y = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return y
        for name in self.active_adapters:
            if name in self.places:
                host, place = self.places[name]
                if name in host._made:
                    y = y + self._lora(x, host._made[name], place, self.scaling[name]).to(y.dtype)
        return y

    @staticmethod
    def _lora(x: Tensor, made: Made, place: int, scaling: float) -> Tensor:  # [..., in] -> [..., out]
        a, b = made.pairs[place]
        x = x.to(a.dtype)
        if made.which is None:
            return F.linear(F.linear(x, a[0]), b[0]) * scaling
        down = torch.einsum("b...i,bri->b...r", x, a[made.which])  # [B, ..., r]
        return torch.einsum("b...r,bor->b...o", down, b[made.which]) * scaling

    # Merging: one session's factors, for a weight has one value
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write the product of the factors, of the session that is chosen or the newest, into the base weight; `unmerge` is exact.

        Raises ValueError where `safe_merge` finds a weight that is not finite; nothing is merged then.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.places]
        if not names:
            return
        weight = self._weight()
        merged = weight.data.float() + torch.stack([self.delta_weight(name).float().to(weight.device) for name in names]).sum(0)
        if safe_merge and not merged.isfinite().all():
            raise ValueError(f"The merged weights of adapter {', '.join(names)} are not finite; nothing was merged here.")
        if self._kept is None:
            self._kept = weight.data
        weight.data = merged.to(weight.dtype)
        self.merged_adapters += names

    def _weight(self) -> nn.Parameter:
        return self.base_layer.weight  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def delta_weight(self, name: str) -> Tensor:
        """[out, in] what an adapter adds to the weight, for the session that is chosen in eval mode, else the newest."""
        host, place = self.places[name]
        a, b = host.generator(name)(host.embedding_of(name)[None]).pairs[place]
        return b[0] @ a[0] * self.scaling[name]

    def unmerge(self) -> None:
        """Put the original weight back."""
        if not self.merged or self._kept is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = self._weight()
        weight.data = self._kept.to(weight.device)  # the model may have been moved since
        self._kept, self.merged_adapters = None, []

    def __repr__(self) -> str:
        return "hyper_lora." + super().__repr__()
