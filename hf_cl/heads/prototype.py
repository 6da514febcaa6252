"""The nearest-class-mean head.

Shapes: C classes seen so far, D feature width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.cosine import CosineHead


class PrototypeHead(CosineHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """Classifies by the most similar class mean: `scale * cos(features, prototype)`.

    Nearest class mean (Mensink et al., "Distance-Based Image Classification: Generalizing to new classes at near-zero cost", TPAMI 2013)
    under cosine similarity, as in SimpleCIL (Zhou et al., "Revisiting Class-Incremental Learning with Pre-Trained Models", IJCV 2024).

    In train mode it is a `CosineHead`: trainable rows, so that a loss can teach the adapter. At the end of a session the means of its
    classes become their prototypes, and eval mode uses those. A class without a prototype yet is judged by its row.

    Rows whose class has a prototype are training state. They go to checkpoints but not into an adapter file: `state_dict` holds one vector
    per class, the one eval mode uses, as `prototypes`. The rows of a loaded head begin as its prototypes.

    Args: as `CosineHead`.
    """

    fits = True
    prototypes: Tensor
    """[C, D] class means; NaN where a class has none yet."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        scale: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, scale=scale, device=device, dtype=dtype)
        self.register_buffer("prototypes", torch.full_like(self.weight, torch.nan, requires_grad=False))
        self.register_state_dict_post_hook(_save_one_vector_per_class)
        self.register_load_state_dict_pre_hook(_start_rows_at_prototypes)

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        missing = self.prototypes.new_full((len(class_names), self.in_features), torch.nan)
        self.prototypes = torch.cat([self.prototypes, missing])  # [C, D]

    def class_vectors(self) -> Tensor:
        return self.weight if self.training else self._fitted_vectors()

    def _fitted_vectors(self) -> Tensor:
        return torch.where(self.prototypes[:, :1].isnan(), self.weight, self.prototypes)  # [C, D]

    def end_session(self, trainer: Trainer, session: Session) -> None:
        """The means of all classes become their prototypes: those of the session's under the model as it now is, those of earlier ones
        where a drift map has carried them, or as they were."""
        means = trainer.class_statistics(session).means(range(len(session.class_names)))  # [C, D]
        self.prototypes[: len(means)] = means.to(self.prototypes)


# Loaders find a head's keys by its state_dict, before and after the first fit: the set of keys must be the same.
def _save_one_vector_per_class(head: PrototypeHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    del state_dict[f"{prefix}weight"]
    state_dict[f"{prefix}prototypes"] = head._fitted_vectors().detach()


def _start_rows_at_prototypes(head: PrototypeHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}prototypes" in state_dict:  # a copy: where tensors are assigned, rows and prototypes must not share memory
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}prototypes"].clone()
