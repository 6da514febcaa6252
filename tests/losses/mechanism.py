"""What the proofs of mechanisms share: batches as a loss sees them, without a model of the package or a loop."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from hf_cl.contracts import Context, Outputs


def context(logits, labels, index, session, epoch=0, features=None, frozen=None) -> Context:
    """One batch of which the loss sees logits, labels and sample ids."""
    features = logits if features is None else features
    return Context({"labels": labels, "index": index}, (Outputs(features, logits, features),), session, epoch, 0, frozen)


def detached(ctx: Context) -> Context:
    """As `trainer.contexts` has it."""
    return context(ctx.logits.detach(), ctx.labels, ctx.batch["index"], ctx.session, ctx.epoch)


def loop() -> SimpleNamespace:
    """A trainer on one process whose last step saw nothing yet."""
    return SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu"), num_processes=1), contexts=[])
