"""Squared distance of the trained parameters to where they were.

Shapes: r rank, in and out the widths of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from hf_cl.contracts import Context, LossTerm, NamedParameters, Session, Trainer
from hf_cl.scopes import scoped


class L2Anchor(LossTerm):
    """`sum_p ||p - p_a||^2`, or for LoRA pairs `sum_layers ||s B A - s B_a A_a||_F^2`: how far the layers' weights have moved.

    L2 regularisation of Smith et al., "A Closer Look at Rehearsal-Free Continual Learning" (arXiv 2203.17269), who found it ahead of EWC
    and feature distillation on pre-trained backbones. The space of deltas is ours: (B R)(R^-1 A) is the same function for every invertible
    R, yet the distance of A and B changes with R. It is computed without a matrix of the layer's size, in O(r^2 (in + out)), and from the
    differences dA = A - A_a, dB = B - B_a: with X = [A; dA] and Y = [dB, B_a] it is s^2 sum((X X^T) * (Y^T Y)), which loses no digits
    near the anchor. Tensors that are no LoRA pair are anchored as they are.

    The term must hear of session 0, where the anchor begins: list it there. One that is left out there (`from_start=False`) stands in the
    method's `parts`, as `compose` does it.

    Args:
        weight: a number, or a function of the phase's epoch.
        anchor: "previous" moves the anchor at each session's end; "pretrained" keeps that of the start, which is delta 0 for LoRA.
        space: "delta" or "params".
        scope: what is anchored, as `hf_cl.scopes.scoped` reads it; never the head.
        from_start: whether session 0 is pulled to the start already.

    Raises ValueError for other values, and at the beginning of a session for a scope that matches nothing or an anchored tensor whose shape
    has changed.
    """

    name = "l2_anchor"

    def __init__(
        self,
        weight: float | Callable[[int], float] = 0.05,
        anchor: Literal["previous", "pretrained"] = "previous",
        space: Literal["delta", "params"] = "delta",
        scope: str = "adapter",
        from_start: bool = True,
    ) -> None:
        if anchor not in ("previous", "pretrained"):
            raise ValueError(f"L2Anchor: anchor must be 'previous' or 'pretrained', got {anchor!r}.")
        if space not in ("delta", "params"):
            raise ValueError(f"L2Anchor: space must be 'delta' or 'params', got {space!r}.")
        if not callable(weight) and weight < 0:
            raise ValueError(f"L2Anchor: weight must not be negative, got {weight}.")
        self.weight, self.anchor, self.space, self.scope = weight, anchor, space, scope
        self.first_session = 0 if from_start else 1
        self._anchors: dict[str, Tensor] = {}
        self._parameters: NamedParameters = ()
        self._scalings: dict[str, float] = {}

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        self._parameters = outside_head(self.scope, trainer.named_parameters, "L2Anchor")
        self._scalings = lora_scalings(trainer.tuner, self._parameters) if self.space == "delta" else {}
        self._anchors = beside(self._anchors, self._parameters) or snapshot(self._parameters)
        check_shapes(self._anchors, self._parameters, "L2Anchor")

    def end_session(self, trainer: Trainer, session: Session) -> None:
        if self.anchor == "previous":
            self._anchors = snapshot(self._parameters)

    def __call__(self, ctx: Context) -> Tensor:
        now = dict(self._parameters)
        pairs = {name: name.replace("lora_A", "lora_B") for name in self._scalings}
        values = [delta_distance(now[a], now[b], self._anchors[a], self._anchors[b]) * self._scalings[a] ** 2 for a, b in pairs.items()]
        paired = {*pairs, *pairs.values()}
        values += [(p.to(self._anchors[name].dtype) - self._anchors[name]).square().sum() for name, p in now.items() if name not in paired]
        return torch.stack(values).sum()

    def state_dict(self) -> dict[str, Any]:
        return {"anchors": dict(self._anchors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._anchors = beside(state["anchors"], self._parameters)


def delta_distance(a: Tensor, b: Tensor, a_anchor: Tensor, b_anchor: Tensor) -> Tensor:
    """`||B A - B_a A_a||_F^2` for A [r, in], B [out, r], in the precision of the anchors and at least float32."""
    a, b = a.to(a_anchor.dtype), b.to(b_anchor.dtype)
    x = torch.cat([a, a - a_anchor])  # [2r, in]
    y = torch.cat([b - b_anchor, b_anchor], 1)  # [out, 2r]
    return ((x @ x.T) * (y.T @ y)).sum()


def outside_head(scope: str, named_parameters: NamedParameters, who: str) -> NamedParameters:
    """What a scope names of the adapter: a head grows, and its rows have no place to stay at."""
    return scoped(scope, [(name, p) for name, p in named_parameters if not name.startswith(("head.", "losses."))], who)


def snapshot(parameters: NamedParameters) -> dict[str, Tensor]:
    """A copy of each, float32 or wider."""
    return {name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for name, p in parameters}


def beside(kept: Mapping[str, Tensor], parameters: NamedParameters) -> dict[str, Tensor]:
    """What was kept, on the devices of the parameters: from a checkpoint it comes back on the CPU."""
    devices = {name: p.device for name, p in parameters}
    return {name: tensor.to(devices.get(name, tensor.device)) for name, tensor in kept.items()}


def check_shapes(kept: Mapping[str, Tensor], parameters: NamedParameters, who: str) -> None:
    """Raise ValueError for a parameter that is new since the anchor was taken, or has another shape."""
    for name, p in parameters:
        if name not in kept or kept[name].shape != p.shape:
            before = f"shape {list(kept[name].shape)}" if name in kept else "no such tensor"
            raise ValueError(
                f"{who}: {name} has shape {list(p.shape)} and its anchor has {before}. Leave tensors that grow out by `scope`."
            )


def lora_scalings(tuner: Any, parameters: NamedParameters) -> dict[str, float]:
    """Name of each linear `lora_A` whose pair is among the parameters -> the factor of its layer."""
    names = dict(parameters)
    found = {}
    for name, p in names.items():
        layer, _, rest = name.partition(".lora_A.")
        if rest and p.dim() == 2 and name.replace("lora_A", "lora_B") in names:
            found[name] = float(tuner.model.get_submodule(layer).scaling[rest.split(".")[0]])
    return found
