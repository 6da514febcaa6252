"""The recurrent hypernetwork of one HYPER_LORA adapter: from an embedding per session to the LoRA factors of all layers.

Shapes: S sessions, L layers, E length of an embedding, C of a layer's code, H hidden units, r rank, Q width of the query, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl.adapters.hyper_lora.config import HyperLoraConfig

Shape = tuple[int, int]
"""(in, out) of a Linear."""
_RECURRENT = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Factors(NamedTuple):
    """LoRA factors of all layers for some sessions."""

    hidden: Tensor
    """[S, L, H] the state they are read off."""
    pairs: list[tuple[Tensor, Tensor]]
    """Per layer A [S, r, in] and B [S, out, r]."""


class Generator(nn.Module):
    """One step of an LSTM per layer, in the order of the layers, so that a layer's factors depend on those before it.

    Its input is [embedding of the session; code of the layer]; A and B are read off its state by linear maps, one pair for each shape of a
    layer. The step is written out (gates i, f, g, o, two bias vectors, zero start): the numbers do not depend on which LSTM kernel a device
    has. `embedding` [E] is the newest session's, which trains; `past` [S - 1, E] are those before it, a buffer, which no optimizer's decay
    or momentum reaches.

    `means` [K, Q]: at unit length, the mean query of each class, by which an image finds its session; zero until its session has ended.

    Args:
        shapes: of the layers, in their order.
        config: sizes; how many sessions and classes there are.
        query_width: Q.
    """

    weight_ih: nn.Parameter
    weight_hh: nn.Parameter
    bias_ih: nn.Parameter
    bias_hh: nn.Parameter
    codes: nn.Parameter
    embedding: nn.Parameter
    past: Tensor
    means: Tensor
    session_of: Tensor

    def __init__(self, shapes: Sequence[Shape], config: HyperLoraConfig, query_width: int) -> None:
        super().__init__()
        self.shapes, self.r = list(shapes), config.r
        units, width = config.hidden_units, config.embedding_dim + config.layer_dim
        sizes = {"weight_ih": (4, units, width), "weight_hh": (4, units, units), "bias_ih": (4, units), "bias_hh": (4, units)}
        drawn = {name: _uniform(size, units) for name, size in sizes.items()}
        drawn["codes"] = torch.randn(len(shapes), config.layer_dim)
        drawn["embedding"] = torch.randn(config.embedding_dim)
        scale = float(_states(drawn["embedding"][None], **{name: drawn[name] for name in (*_RECURRENT, "codes")}).norm(dim=-1).mean())
        drawn |= _readouts(self.shapes, config, scale)
        for name, values in drawn.items():
            self.register_parameter(name, nn.Parameter(values))
        self.register_buffer("past", torch.randn(len(config.session_sizes) - 1, config.embedding_dim))
        self.register_buffer("means", torch.zeros(len(config.class_names or ()), query_width))
        self.register_buffer("session_of", _session_of(config), persistent=False)

    @property
    def sessions(self) -> int:
        """S: those with an embedding."""
        return len(self.past) + 1

    def embeddings(self) -> Tensor:
        """[S, E] of all sessions; a gradient reaches the newest."""
        return torch.cat([self.past, self.embedding[None]])

    def forward(self, embeddings: Tensor) -> Factors:  # [S, E]
        """The factors of sessions with these embeddings."""
        hidden = _states(
            embeddings.to(self.codes.dtype), self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.codes
        )  # [S, L, H]
        pairs: list[tuple[Tensor, Tensor]] = [(hidden, hidden)] * len(self.shapes)
        for shape in sorted(set(self.shapes)):
            places = [place for place, other in enumerate(self.shapes) if other == shape]
            states = torch.stack([hidden[:, place] for place in places], dim=1)  # [S, n, H]; a list of places would be sent to the device
            a = self._read("a", shape, states).unflatten(-1, (self.r, shape[0]))  # [S, n, r, in]
            b = self._read("b", shape, states).unflatten(-1, (shape[1], self.r))  # [S, n, out, r]
            for place, of_a, of_b in zip(places, a.unbind(1), b.unbind(1), strict=True):
                pairs[place] = (of_a, of_b)
        return Factors(hidden, pairs)

    def _read(self, which: str, shape: Shape, states: Tensor) -> Tensor:
        name = f"{which}_{shape[0]}x{shape[1]}"
        return F.linear(states, getattr(self, f"head_{name}"), getattr(self, f"bias_{name}"))  # plain tensors under functional_call

    def session_of_query(self, query: Tensor) -> Tensor:
        """[B, Q] -> [B] the session of the class whose mean is nearest by cosine; the newest as long as no class has a mean."""
        known = self.means.square().sum(-1) > 0  # [K]
        newest = torch.full_like(query[:, 0], self.sessions - 1, dtype=torch.long)
        if not len(known):
            return newest
        cosines = F.normalize(query, dim=-1) @ self.means.T  # [B, K]
        nearest = cosines.masked_fill(~known, -math.inf).argmax(-1)  # [B]
        return torch.where(known.any(), self.session_of[nearest], newest)

    def own_classes(self, sessions: Tensor) -> Tensor:  # [B] -> [B, K]
        """Which classes came in the session of each image."""
        return self.session_of == sessions[:, None]

    # Growth
    @torch.no_grad()
    def grow(self, config: HyperLoraConfig) -> None:
        """A session has come, which `config` counts already: its embedding, its hidden units, rows for the means of its classes."""
        if config.grows:
            before = self.embedding.detach()
            begin = {"last": before.clone, "zero": lambda: torch.zeros_like(before), "random": lambda: torch.randn(len(before)).to(before)}
            self.past = torch.cat([self.past, before[None]])  # [S - 1, E]
            self.embedding = nn.Parameter(begin[config.new_embedding](), requires_grad=self.embedding.requires_grad)
        added = config.hidden_units - self.weight_hh.shape[-1]
        if added:
            self._widen(added)
        new = len(config.class_names or ()) - len(self.means)
        self.means = torch.cat([self.means, self.means.new_zeros(new, self.means.shape[1])])  # [K, Q]
        self.session_of = _session_of(config).to(self.session_of.device)

    def _widen(self, added: int) -> None:
        """Units that read all and that nobody reads yet: what is generated stays as it was, but for rounding."""
        units = self.weight_hh.shape[-1] + added
        for name in _RECURRENT:
            old = self.get_parameter(name)
            if name == "weight_hh":
                old = F.pad(old, (0, added))  # from the new units to the old gates: zero
            rows = _uniform((4, added, *old.shape[2:]), units).to(old)
            self._replace(name, torch.cat([old, rows], dim=1))
        for name in [name for name in self._parameters if name.startswith("head_")]:
            self._replace(name, F.pad(self.get_parameter(name), (0, added)))

    def _replace(self, name: str, values: Tensor) -> None:
        self._parameters[name] = nn.Parameter(values.detach(), requires_grad=self.get_parameter(name).requires_grad)


def _states(  # [S, E] -> [S, L, H]
    embeddings: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor, codes: Tensor
) -> Tensor:
    """What the LSTM holds at each layer."""
    codes = codes.expand(len(embeddings), -1, -1)  # [S, L, C]
    inputs = torch.cat([embeddings[:, None].expand(-1, codes.shape[1], -1), codes], dim=-1)  # [S, L, E + C]
    gates = torch.einsum("slx,ghx->slgh", inputs, weight_ih) + (bias_ih + bias_hh)  # [S, L, 4, H]
    state = memory = embeddings.new_zeros(len(embeddings), weight_hh.shape[-1])  # [S, H]
    states = []
    for of_layer in gates.unbind(1):
        i, f, g, o = (of_layer + torch.einsum("sk,ghk->sgh", state, weight_hh)).unbind(1)  # [S, H] each
        memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
        state = o.sigmoid() * memory.tanh()
        states.append(state)
    return torch.stack(states, dim=1)


def _readouts(shapes: Sequence[Shape], config: HyperLoraConfig, scale: float) -> dict[str, Tensor]:
    """A begins on the scale of LoRA's (standard deviation 1 / sqrt(3 in)) where states have the length `scale`; B at zero, so that the base
    is what it was."""
    found = {}
    for n_in, n_out in sorted(set(shapes)):
        name, spread = f"{n_in}x{n_out}", 0.0 if config.init_weights else 0.1 / scale
        found[f"head_a_{name}"] = torch.randn(config.r * n_in, config.hidden_units) / (math.sqrt(3 * n_in) * scale)
        found[f"bias_a_{name}"] = torch.zeros(config.r * n_in)
        found[f"head_b_{name}"] = torch.randn(n_out * config.r, config.hidden_units) * spread
        found[f"bias_b_{name}"] = torch.zeros(n_out * config.r)
    return found


def _uniform(size: Sequence[int], units: int) -> Tensor:
    """As torch's LSTM begins."""
    return (2 * torch.rand(*size) - 1) / math.sqrt(units)


def _session_of(config: HyperLoraConfig) -> Tensor:
    """[K] the session of each class."""
    return torch.tensor([number for number, size in enumerate(config.session_sizes) for _ in range(size)], dtype=torch.long)
