"""The prefix injector: key/value rows beside the tokens of an attention module, without a forked forward.

A tuner layer wraps the attention module and lends its rows to the module's view of the config for the time of the call. The attention
function named there is ours: it puts the rows in front of the projected keys and values and calls the implementation the model asks for
(sdpa, eager, flash). A keyword would not do: SigLIP's attention does not pass keywords on. open_clip's `nn.MultiheadAttention` has no
such function; it gets a forward of its own.

Where the rows come from is a subclass's business (`PrefixLayer.rows`): OnePrompt's are parameters, a prompt pool's are chosen per sample.

Shapes: B batch, H heads, N tokens, P prefix rows, D width, d = D / H.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_cl._peft import TunerLayer

_IMPLEMENTATION = "hf_cl_prefix"

Rows = tuple[Tensor, Tensor]
"""Key rows and value rows: [P, D] for all samples alike, or [B, P, D]."""


class PrefixConfigView:
    """An attention module's view of the model config: everything is the model's, except that the attention function is ours.

    The model's own config is untouched: nothing leaks into config.json, masks are built for the real implementation, and
    `set_attn_implementation` works after injection. `rows` are there only while the wrapped module runs.
    """

    real: Any
    rows: Rows | None

    def __init__(self, real: Any) -> None:
        object.__setattr__(self, "real", real)
        object.__setattr__(self, "rows", None)

    def lend(self, rows: Rows | None) -> None:
        """Hand rows to the attention function, or take them back (None)."""
        object.__setattr__(self, "rows", rows)

    def __getattr__(self, name: str) -> Any:
        if name == "_attn_implementation":
            return _IMPLEMENTATION
        return getattr(object.__getattribute__(self, "real"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.real, name, value)

    def __deepcopy__(self, memo: dict[int, Any]) -> PrefixConfigView:
        # the model's config may already be in the memo: the copied module must see the copied model's config
        return PrefixConfigView(memo.get(id(self.real), self.real))

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return PrefixConfigView, (self.real,)


def _prefix_attention(
    module: nn.Module,
    query: Tensor,  # [B, H, N, d]
    key: Tensor,  # [B, H, N, d]
    value: Tensor,  # [B, H, N, d]
    attention_mask: Tensor | None,
    *,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    view: PrefixConfigView = module.config  # pyright: ignore[reportAssignmentType]
    implementation: str = view.real._attn_implementation
    eager = sys.modules[type(module).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    if view.rows is not None:
        causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
        rows = key_rows, _ = tuple(_split_heads(r, key) for r in view.rows)  # [B or 1, H, P, d]
        key, value = (
            torch.cat([r.expand(t.shape[0], -1, -1, -1), t], dim=2) for r, t in zip(rows, (key, value), strict=True)
        )  # [B, H, P+N, d]
        attention_mask = _widen_mask(attention_mask, key_rows.shape[2], query, implementation, causal)
        is_causal = causal and attention_mask is None
    if is_causal is not None:
        kwargs["is_causal"] = is_causal
    return attend(module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(_IMPLEMENTATION, _prefix_attention)


def _split_heads(rows: Tensor, like: Tensor) -> Tensor:
    """[P, D] or [B, P, D] -> [B or 1, H, P, d] in the keys' dtype: the rows are float32 masters on a half-precision base."""
    heads, width = like.shape[1], like.shape[3]
    rows = rows.to(like.dtype) if rows.ndim == 3 else rows.to(like.dtype)[None]  # [B or 1, P, D]
    return rows.unflatten(-1, (heads, width)).transpose(1, 2)  # [B or 1, H, P, d]


def _widen_mask(mask: Tensor | None, num_rows: int, query: Tensor, implementation: str, causal: bool) -> Tensor | None:
    """Let every query see the rows. A causal mask is built here: sdpa would crop the keys to the query length without an error."""
    if "flash" in implementation:  # [B, N] padding mask; its kernels align a causal mask with the last key
        return mask if mask is None else F.pad(mask, (num_rows, 0), value=1)
    if mask is None and causal:
        n = query.shape[2]
        mask = torch.ones(n, n, dtype=torch.bool, device=query.device).tril()[None, None]  # [1, 1, N, N]
        if implementation == "eager":
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, torch.finfo(query.dtype).min)
    if mask is None:
        return None
    return F.pad(mask, (num_rows, 0), value=True if mask.dtype == torch.bool else 0.0)  # [B or 1, 1, N, P+N]


def multihead_attention_with_prefix(attention: nn.MultiheadAttention, query: Tensor, rows: Rows, attn_mask: Tensor | None) -> Tensor:
    """`nn.MultiheadAttention` on one sequence [B, N, D] (or [N, B, D] as `batch_first` says) with prefix rows after the projections."""
    x = query if attention.batch_first else query.transpose(0, 1)  # [B, N, D]
    q, k, v = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)  # [B, N, D] each
    q, k, v = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v))  # [B, H, N, d]
    key_rows, value_rows = (_split_heads(r, k).expand(k.shape[0], -1, -1, -1) for r in rows)  # [B, H, P, d]
    k, v = torch.cat([key_rows, k], dim=2), torch.cat([value_rows, v], dim=2)  # [B, H, P+N, d]
    if attn_mask is not None:
        attn_mask = F.pad(attn_mask, (key_rows.shape[2], 0), value=0.0)  # [N, P+N]; open_clip's masks are additive
    dropout = attention.dropout if attention.training else 0.0
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=dropout)  # [B, H, N, d]
    out = attention.out_proj(out.transpose(1, 2).flatten(2))  # [B, N, D]
    return out if attention.batch_first else out.transpose(0, 1)


class PrefixLayer(TunerLayer):
    """A tuner layer around one attention module. Subclasses say which rows the active adapters contribute."""

    def __init__(self, base_layer: Any, adapter_name: str) -> None:
        super().__init__(base_layer, adapter_name)
        self.native = isinstance(base_layer, nn.MultiheadAttention)
        if self.native:
            self.width: int = base_layer.embed_dim
        else:
            self.width = base_layer.k_proj.out_features
            if not isinstance(base_layer.config, PrefixConfigView):
                base_layer.config = PrefixConfigView(base_layer.config)
        self.in_features = self.out_features = self.width  # peft's own tests ask tuner layers for these

    @staticmethod
    def accepts(module: nn.Module) -> bool:
        """Whether `module` is an attention block the injector knows: transformers' flat form, or `nn.MultiheadAttention`."""
        if isinstance(module, nn.MultiheadAttention):
            return module.in_proj_weight is not None
        return {"q_proj", "k_proj", "v_proj"} <= {name for name, _ in module.named_children()}

    def rows(self) -> Rows | None:
        """The rows of the active adapters, None where there are none."""
        raise NotImplementedError(f"{type(self).__name__} does not implement rows")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        rows = None if self.disable_adapters else self.rows()
        if rows is None:
            return self.base_layer(*args, **kwargs)
        self.refuse_offloaded(*rows)
        if not self.native:
            view: PrefixConfigView = self.base_layer.config  # pyright: ignore[reportAssignmentType]
            view.lend(rows)
            try:
                return self.base_layer(*args, **kwargs)
            finally:
                view.lend(None)
        return multihead_attention_with_prefix(self.base_layer, args[0], rows, kwargs.get("attn_mask")), None  # pyright: ignore

    def restore_base(self) -> nn.Module:
        """The attention module as it was before injection."""
        if not self.native:
            self.base_layer.config = self.base_layer.config.real  # pyright: ignore
        return self.base_layer

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        raise NotImplementedError("Prefix rows cannot be merged into the base weights; use `unload()` for the base model.")

    def unmerge(self) -> None:
        raise NotImplementedError("Prefix rows are never merged, so there is nothing to unmerge.")
