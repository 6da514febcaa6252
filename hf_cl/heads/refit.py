"""Linear heads that are fitted in closed form at the end of a session.

Shapes: B batch, C classes, D feature width, M width of what the fit reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.contracts import Part
from hf_cl.heads.linear import LinearHead


class RefitHead(LinearHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """In train mode a linear head with trainable rows, so that a loss can teach the adapter; eval mode uses the fit: `fitted_weight` [C, M]
    and `fitted_bias` [C]. A class without a fit yet is judged by its row.

    Saved is the fit alone. A subclass defines `end_session`, which calls `set_fit`, and may say by `inputs` what the fit reads of features.
    """

    fits = True
    reads_features = True
    """Whether `inputs` gives the features as they are, so that the fit is a plain linear layer."""
    fitted_weight: Tensor
    fitted_bias: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        fit_features: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, 0, device=device, dtype=dtype)
        factory: Any = {"device": self.weight.device, "dtype": self.weight.dtype}  # peft puts parameters alone on the meta device
        self.fit_features = in_features if fit_features is None else fit_features
        self.register_buffer("fitted_weight", torch.empty(0, self.fit_features, **factory))
        self.register_buffer("fitted_bias", torch.empty(0, **factory))
        self.register_state_dict_post_hook(_save_the_fit)
        self.register_load_state_dict_pre_hook(_start_rows_anew)
        RefitHead.grow(self, [""] * num_classes)

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        count = len(class_names)
        self.fitted_weight = torch.cat([self.fitted_weight, self.fitted_weight.new_full((count, self.fit_features), torch.nan)])
        self.fitted_bias = torch.cat([self.fitted_bias, self.fitted_bias.new_full((count,), torch.nan)])

    def inputs(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, M] what the fit reads."""
        return features

    def set_fit(self, weight: Tensor, bias: Tensor) -> None:
        """Of all classes: [C, M] and [C]."""
        self.fitted_weight.copy_(weight)
        self.fitted_bias.copy_(bias)

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits."""
        if self.training:
            return super().forward(features)
        inputs = self.inputs(features)  # [B, M]
        fitted = F.linear(inputs, self.fitted_weight.nan_to_num(), self.fitted_bias.nan_to_num())
        rows = super().forward(inputs if self.fit_features == self.in_features else features)
        return torch.where(self.fitted_bias.isnan(), rows, fitted)

    def as_linear(self) -> nn.Linear | None:
        """The fit, where it reads the features as they are."""
        if not self.reads_features or self.fitted_bias.isnan().any():
            return None
        linear = nn.Linear(self.in_features, self.num_classes, device=self.fitted_weight.device, dtype=self.fitted_weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(self.fitted_weight)
            linear.bias.copy_(self.fitted_bias)
        return linear


# Loaders find a head's keys by its state_dict, before and after the first fit: the set of keys must be the same.
def _save_the_fit(head: RefitHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in ("weight", "bias"):
        row = state_dict.pop(f"{prefix}{name}")
        fit = getattr(head, f"fitted_{name}")
        if fit.shape == row.shape:
            missing = head.fitted_bias.isnan()
            fit = torch.where(missing[:, None] if fit.ndim == 2 else missing, row, fit)
        state_dict[f"{prefix}fitted_{name}"] = fit.detach()


def _start_rows_anew(head: RefitHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """The rows of a loaded head are its fit, or where that reads something else, begin at nothing."""
    for name in ("weight", "bias"):
        fit = state_dict.get(f"{prefix}fitted_{name}")
        if fit is not None:
            row = getattr(head, name)
            same = fit.shape == row.shape
            state_dict[f"{prefix}{name}"] = fit.clone() if same else torch.zeros(row.shape, dtype=fit.dtype, device=fit.device)
