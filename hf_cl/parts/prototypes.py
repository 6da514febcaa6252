"""Rows of new classes begin as class means.

Shapes: C classes seen so far, E embedding width, n images of a session.
"""

from __future__ import annotations

import torch

from hf_cl.contracts import Part, Session, Trainer


class Prototypes(Part):
    """At the beginning of a session the rows of its classes become the means of their training images' embeddings, not normalised.

    CoACT (Roy et al., TMLR 2025, arXiv 2405.16625) writes them after session 0 and, by its setting, in session 0 too.

    Args:
        base_session: whether this is done in session 0 too.

    Raises ValueError at the beginning of a session where one of its classes has no image.
    """

    def __init__(self, *, base_session: bool = True) -> None:
        self.base_session = base_session

    @torch.no_grad()
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if session.id == 0 and not self.base_session:
            return
        rows: torch.Tensor = trainer.head.weight  # [C, E]  # pyright: ignore[reportAssignmentType]
        data = trainer.features_of(session.train)
        embeddings = trainer.head.embed(data.features.to(rows.dtype))  # [n, E]
        for label in range(session.first_new_class, len(session.class_names)):
            shots = embeddings[data.labels == label]
            if len(shots) == 0:
                raise ValueError(f"Session {session.id} has no training image of {session.class_names[label]!r}, so it has no prototype.")
            rows[label] = shots.mean(0)
