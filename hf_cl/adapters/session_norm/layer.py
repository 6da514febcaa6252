"""The tuner layer of SESSION_NORM.

Shapes: B images, D width, R rows of the table (1 without conditioning, S domains, or the 2 ends of the interpolation).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_cl._peft import BufferDict
from hf_cl.adapters.query_pass import Query
from hf_cl.adapters.session_norm.config import SessionNormConfig
from hf_cl.adapters.session_norm.domains import Domains, by_rule, first_rule, looks
from hf_cl.adapters.weight_change import widened
from hf_cl.adapters.wide_layer import WideLayer


def between(ends: Tensor, curve: Tensor, place: Tensor) -> Tensor:
    """e1 + sigmoid(t (1 + w) + c) (e0 - e1) per channel: `ends` [2, D] are e0 and e1, `curve` [2, D] w and c, `place` t, [] or [B].

    `KernelFunction` of qihao067/DiMR (commit b3941eb), which stores w as what it differs from 1 by. -> [D] or [B, D]
    """
    share = torch.sigmoid(place[..., None] * (1 + curve[0]) + curve[1])
    return ends[1] + share * (ends[0] - ends[1])


class SessionNormLayer(WideLayer):
    """A LayerNorm whose scale and shift an adapter changes, for all images alike or for each by its domain.

    What is stored is the difference to the base's, so that decay pulls towards the base and an adapter without training is the identity:
    `session_norm_scale` and `session_norm_shift` [R, D], under `interpolate` `session_norm_curve` [4, D] (w and c of the scale, then of
    the shift). The first layer of an adapter is its host: its input, which the adapter has not changed, tells the domains of images by
    `session_norm_rule` [S, 2 D + 1].
    """

    adapter_layer_names: tuple[str, ...] = ("session_norm_scale", "session_norm_shift", "session_norm_curve")
    other_param_names: tuple[str, ...] = ("session_norm_rule", "domains", "_unmerged")

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: SessionNormConfig, module_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.module_name = module_name
        self.session_norm_scale, self.session_norm_shift = nn.ParameterDict(), nn.ParameterDict()
        self.session_norm_curve = nn.ParameterDict()
        self.session_norm_rule: Any = BufferDict(persistent=True)
        self.domains: dict[str, Domains] = {}
        self._unmerged: dict[str, tuple[Tensor, Tensor]] = {}
        self._held: dict[str, tuple[Tensor, Tensor]] = {}
        self.in_features = self.out_features = self.original.weight.shape[0]
        self.update_layer(adapter_name, config)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_held": {}}

    # Tensors
    def update_layer(self, adapter_name: str, config: SessionNormConfig) -> None:
        """The tensors of one adapter; the identity unless `init_weights` is False."""
        weight = self.original.weight
        made = {"session_norm_scale": config.rows, "session_norm_shift": config.rows}
        if config.conditioning == "interpolate":
            made["session_norm_curve"] = 4
        for name, rows in made.items():
            tensor = torch.zeros(rows, len(weight), device=weight.device)
            if not config.init_weights and not tensor.is_meta:
                nn.init.normal_(tensor, std=0.1)
            getattr(self, name)[adapter_name] = nn.Parameter(tensor)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def be_host(self, adapter_name: str) -> None:
        """Hold the rule by which images find their domain."""
        scale, count = self.session_norm_scale[adapter_name], self.domains[adapter_name].config.num_domains
        self.session_norm_rule[adapter_name] = first_rule(count, scale.shape[1], scale.device)

    def grow(self, adapter_name: str) -> None:
        """Rows for the domains that have come, which begin as the base's."""
        config = self.domains[adapter_name].config
        for name in ("session_norm_scale", "session_norm_shift"):
            held: Any = getattr(self, name)[adapter_name]
            more = held.new_zeros(config.rows - len(held), held.shape[1])
            grown = nn.Parameter(torch.cat([held.detach(), more]), requires_grad=held.requires_grad)  # [R, D]
            getattr(self, name)[adapter_name] = grown
        if adapter_name in self.session_norm_rule:
            known = self.session_norm_rule[adapter_name]
            rule = first_rule(config.num_domains, self.in_features, known.device)
            rule[: len(known)] = known
            self.session_norm_rule[adapter_name] = rule

    # What the pass before a forward asks a host
    def asks(self) -> bool:
        return not (self.disable_adapters or self.merged) and any(self.domains[name].varies for name in self._hosted())

    def _hosted(self) -> list[str]:
        return [name for name in self.active_adapters if name in self.session_norm_rule]

    def needs_query(self) -> Query | None:
        return None

    def rest(self) -> dict[str, Tensor | None]:
        before = {name: self.domains[name].which for name in self.session_norm_rule}
        self.forget()
        return before

    def wake(self, before: dict[str, Tensor | None]) -> None:
        self.forget()
        for name, which in before.items():
            self.domains[name].which = which

    def answer(self, query: Tensor | None) -> Tensor | None:
        graded = None
        for name in self._hosted():
            domains = self.domains[name]
            if domains.varies and domains.given is not None:
                domains.which = domains.given
                self._held[name] = self.affine(name)
                graded = self._held[name][0]
        return graded

    def forget(self) -> None:
        self._held = {}
        for name in self.session_norm_rule:
            self.domains[name].which = None

    # The forward
    def affine(self, adapter_name: str) -> tuple[Tensor, Tensor]:
        """What is added to the base's scale and shift: [D] for all images, or [B, D]."""
        scale, shift = self.session_norm_scale[adapter_name], self.session_norm_shift[adapter_name]
        domains = self.domains[adapter_name]
        if adapter_name in self.session_norm_curve:
            curve, place = self.session_norm_curve[adapter_name], domains.place(scale)
            return between(scale, curve[:2], place), between(shift, curve[2:], place)
        return scale[domains.row], shift[domains.row]

    def _applied(self) -> list[str]:
        """The one adapter that the forward has to apply, if any."""
        names = self.in_force()
        if len(names) > 1:
            raise ValueError(f"A norm has one scale and shift, and {len(names)} adapters are active: {', '.join(names)}. Activate one.")
        if names and not torch.compiler.is_compiling():
            self.refuse_offloaded(self.original.weight, self.session_norm_scale[names[0]])
        return names

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # [B, ..., D]
        names, base = self._applied(), self.original
        if not names:
            return self.base_layer(x, *args, **kwargs)
        name, domains = names[0], self.domains[names[0]]
        if domains.varies and name in self.session_norm_rule and domains.which is None:
            domains.which = by_rule(self.session_norm_rule[name], looks(x.detach()))
        scale, shift = self._held[name] if name in self._held else self.affine(name)
        scale, shift = widened(base.weight) + scale, widened(base.bias) + shift
        wide = widened(x)
        if scale.dim() == 1:
            normed = F.layer_norm(wide, base.normalized_shape, scale.to(wide), shift.to(wide), base.eps)
        else:
            each = (len(scale), *(1,) * (x.dim() - 2), -1)  # [B, 1, ..., D]
            normed = F.layer_norm(wide, base.normalized_shape, None, None, base.eps) * scale.view(each) + shift.view(each)
        return normed if torch.is_autocast_enabled(x.device.type) else normed.to(x.dtype)

    # Merging: one domain's norms, for a weight has one value
    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Write scale and shift, of the domain that is chosen where there are several, into the base; `unmerge` is exact.

        Raises ValueError where `safe_merge` finds a value that is not finite; nothing is merged then.
        """
        for name in self.to_merge(adapter_names):
            weight, bias = self.original.weight, self.original.bias
            scale, shift = self.affine(name)
            merged = (widened(weight) + scale).to(weight.dtype), (widened(bias) + shift).to(bias.dtype)
            if safe_merge and not all(bool(tensor.isfinite().all()) for tensor in merged):
                raise ValueError(f"The merged norms of adapter {name} are not finite; nothing was merged here.")
            self._unmerged[name] = weight.detach().clone(), bias.detach().clone()
            weight.copy_(merged[0])
            bias.copy_(merged[1])
            self.merged_adapters.append(name)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put back what the base had, to the bit."""
        while self.merged_adapters:
            weight, bias = self._unmerged.pop(self.merged_adapters.pop())
            self.original.weight.copy_(weight)
            self.original.bias.copy_(bias)

    def __repr__(self) -> str:
        return "session_norm." + super().__repr__()
