"""Of which domain each image of a forward is: told, chosen for all, or seen from the images themselves.

Shapes: B images, N tokens, D width, S domains, T = 2 D + 1 numbers of a row of the rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_cl.adapters.session_norm.config import SessionNormConfig
from hf_cl.errors import first_ten

UNSEEN = -1e30
"""Score of a domain without images."""


def looks(tokens: Tensor) -> Tensor:
    """[B, N, D] or [B, ..., D] -> [B, 2 D] by what an image tells its domain: mean and log of the deviation of its tokens, per channel."""
    rows = tokens.flatten(1, -2) if tokens.dim() > 2 else tokens[:, None]  # [B, N, D]
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    deviation = wide.var(1, correction=0).clamp_min(1e-12).log() / 2  # [B, D]
    return torch.cat([wide.mean(1), deviation], dim=1)


def first_rule(count: int, width: int, device: torch.device) -> Tensor:
    """[S, T] the rule before any image was seen: all are of the first domain."""
    rule = torch.zeros(count, 2 * width + 1, device=device)
    rule[1:, -1] = UNSEEN
    return rule


def by_rule(rule: Tensor, seen: Tensor) -> Tensor:
    """[S, T], [B, 2 D] -> [B] the domain of the highest linear score."""
    return (seen.to(rule) @ rule[:, :-1].T + rule[:, -1]).argmax(1)


class Domains:
    """What the layers of one adapter share about the images of the present forward.

    Args:
        config: of the adapter; its `domains` are read as they are now.
    """

    def __init__(self, config: SessionNormConfig) -> None:
        self.config = config
        self.chosen: int | float | None = None
        """For all images: a row of the table, or a place between -2 and 2. None: each image has its own."""
        self.given: Tensor | None = None
        """[B] of the images that are about to go through; None: nobody says it."""
        self.which: Tensor | None = None
        """[B] of the images that go through; None until it is known."""
        self._places: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "given": None, "which": None}  # a copy begins without the images of the last forward

    @property
    def varies(self) -> bool:
        """Whether images of one batch may have different norms."""
        return self.chosen is None and self.config.num_domains > 1

    @property
    def row(self) -> Any:
        """[] or [B] the row of a table for each image."""
        return self.which if self.varies else self.chosen or 0

    def place(self, like: Tensor) -> Tensor:
        """[B] or [] the places of the images' domains on the scale from -2 to 2, with device and dtype of `like`."""
        if self.chosen is not None:
            return like.new_tensor(float(self.chosen))
        names, codes = self.config.domains or [], self.config.codes or {}
        if self._places is None or self._places.device != like.device or len(self._places) != self.config.num_domains:
            self._places = like.new_tensor([self.config.place(codes[name]) for name in names] or [0.0])
        return self._places.to(like.dtype)[self.row]

    def choose(self, domain: str | float | None) -> None:
        """Let all images be of one domain, by its name; under `interpolate` also at a number on the scale of `codes`. None: each its own.

        Raises ValueError for a domain that is not known, and a number outside of the codes.
        """
        config = self.config
        known = list(config.codes or config.domains or ())
        if domain is None:
            self.chosen = None
        elif config.codes is not None and not isinstance(domain, str):
            self.chosen = config.place(domain)
        elif domain not in known:
            raise ValueError(f"This adapter knows no domain {domain!r}; it has {first_ten(map(repr, known)) or 'none'}.")
        elif config.codes is not None:
            self.chosen = config.place(config.codes[str(domain)])
        else:
            self.chosen = known.index(str(domain))
