"""One row per training image of a session, found by its sample id.

Shapes: n images of the session, B batch, K columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class SampleTable:
    """[n, K] values on one device, addressed by sample ids. Reading and writing never wait for the device.

    Ids that are not of the session have no row: `read` marks them, `write` passes them over.

    Args:
        ids: of the session's images, each once.
        columns: K.
        dtype: of the stored values; they are handed out as float32 or wider.
        device: where the table lies.

    Raises ValueError for an id that stands twice.
    """

    def __init__(self, ids: Sequence[int], columns: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self._ids = torch.tensor(sorted(ids), dtype=torch.int64, device=device)  # [n]
        if len(set(ids)) != len(ids):
            raise ValueError(f"Sample ids must be unique within a session; {len(ids) - len(set(ids))} of {len(ids)} stand more than once.")
        self.values = torch.zeros(len(ids) + 1, columns, dtype=dtype, device=device)  # [n + 1, K]: the last row is nobody's

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """[B] ids -> ([B] rows, [B] whether there is one); an id without a row gets nobody's."""
        place = torch.searchsorted(self._ids, index).clamp(max=max(len(self._ids) - 1, 0))  # [B]
        known = self._ids[place] == index  # [B]
        return torch.where(known, place, len(self._ids)), known

    def read(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """[B] ids -> ([B, K] float32 or wider, [B] whether there is such a row)."""
        rows, known = self.rows(index)
        return self.values[rows].to(torch.promote_types(self.values.dtype, torch.float32)), known

    def write(self, index: Tensor, values: Tensor, valid: Tensor | None = None) -> None:
        """Put `values` [B, K] into the rows of `index` [B], where `valid` [B] says so. An id that stands twice keeps one of its values."""
        rows, _ = self.rows(index)
        if valid is not None:
            rows = torch.where(valid, rows, len(self._ids))
        self.values[rows] = values.to(self.values.dtype)

    def copy(self) -> SampleTable:
        """A table with the same rows, and values of its own."""
        other = SampleTable(self._ids.tolist(), self.values.shape[1], self.values.dtype, self.values.device)
        other.values.copy_(self.values)
        return other

    def ids(self) -> Tensor:
        """[n] the ids, ascending: row i of `values` belongs to the i-th."""
        return self._ids

    def state_dict(self) -> dict[str, Any]:
        """The ids and the rows."""
        return {"ids": self._ids, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the table keeps its device."""
        self._ids = state["ids"].to(self._ids.device)
        self.values = state["values"].to(self.values.device)
