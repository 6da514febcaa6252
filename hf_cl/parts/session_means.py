"""By what an image of a HYPER_LORA adapter finds its session.

Shapes: B batch, Q width of the query.
"""

from __future__ import annotations

import torch

from hf_cl.adapters import HyperLoraModel
from hf_cl.contracts import Part, Session, Trainer


class SessionMeans(Part):
    """Writes the mean query of each class of a session into the adapter when the session ends: one pass of the untouched tower.

    The queries are those that are asked for in eval mode, not the features of `features_of(role="pretrained")`, which on Dinov2, CLIP and
    SigLIP are other vectors.

    Raises ValueError at the beginning of a session whose adapter is not HYPER_LORA.
    """

    new_classes_only = "an image finds its session by the classes that the session brought"

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, HyperLoraModel):
            raise ValueError(f"SessionMeans needs a HYPER_LORA adapter; this run has a {type(trainer.tuner).__name__}. Leave the part out.")

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        tuner, own = trainer.tuner, session.own
        assert isinstance(tuner, HyperLoraModel)
        name = tuner.active_adapters[0]
        means = tuner.generator(name).means
        sums = means.new_zeros(len(own) + 1, means.shape[1])  # [1 + classes, Q]; the first row is of images of earlier classes
        for batch in trainer.batches_of(session.train):
            with trainer.accelerator.autocast():
                queries = tuner.queries(batch["pixel_values"])  # [B, Q]
            sums.index_add_(0, (batch["labels"] - own.start + 1).clamp_min(0), queries.to(sums))
        if trainer.accelerator.num_processes > 1:
            sums = trainer.accelerator.reduce(sums, reduction="sum")
        tuner.write_means(name, own.start, sums[1:])
