"""How often MVP's entries were chosen.

Shapes: b images of this process, B of all, k entries of an image, M entries of the pool.
"""

from __future__ import annotations

import torch

from hf_cl.adapters import PromptPoolModel
from hf_cl.contracts import Part, Session, Trainer
from hf_cl.losses.global_batch import gather_batch


class PoolUsage(Part):
    """Counts, after each update, the entries that its images had: of all processes, however often a rule looks at the batch.

    The counts are a buffer of the adapter (`prompt_pool_count`), since they take part in choosing.

    Raises ValueError at the beginning of a session whose adapter is no PROMPT_POOL of the producer mvp.
    """

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.tuner, PromptPoolModel):
            raise ValueError(f"PoolUsage needs a PROMPT_POOL adapter of the producer mvp; this run has a {type(trainer.tuner).__name__}.")
        trainer.tuner.chooser()

    @torch.no_grad()
    def after_step(self, trainer: Trainer) -> None:
        tuner = trainer.tuner
        assert isinstance(tuner, PromptPoolModel)
        count = tuner.chooser().count(tuner.active_adapters[0])  # [M]
        for context in trainer.contexts:
            batch = gather_batch(context.batch["index"], context.extras["chosen"][:, 0])
            (chosen,) = batch.tensors  # [B, k]
            count.scatter_add_(0, chosen.flatten(), batch.valid.to(count)[:, None].expand_as(chosen).flatten())
