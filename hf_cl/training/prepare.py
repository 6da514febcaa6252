"""Preparing with accelerate again and again: once per phase, always from the bare model."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn
from torch.optim import Optimizer


def prepare_phase(accelerator: Accelerator, bare: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, AcceleratedOptimizer | Optimizer]:
    """Prepare `bare` (its requires_grad must be final) and the optimizer.

    Schedules and loaders are not prepared: accelerate steps a scheduler once per process, and repeats samples to make loaders equal.
    Nothing is prepared where nothing trains: DDP refuses such a model, and there is nothing to synchronise.

    Raises RuntimeError where the last phase was not released: accelerate would return the old wrapper with its stale gradient buckets.
    """
    if getattr(bare, "_is_accelerate_prepared", False):
        raise RuntimeError("prepare_phase: the last phase's model was not released (release_phase).")
    if not any(p.requires_grad for p in bare.parameters()):
        return bare, optimizer
    # the optimizer's state is where the parameters are already; accelerate would also move Adam's step counts, which are the host's, and
    # every step would wait for each of them
    return accelerator.prepare(bare, optimizer, device_placement=[True, False])


def release_phase(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """Undo `prepare_phase`: the bare model back, nothing nested, nothing kept.

    accelerate leaves its mark on the bare model; with the mark, the next prepare would do nothing, so no autocast.
    """
    bare = accelerator.unwrap_model(model, keep_fp32_wrapper=False, keep_torch_compile=False)
    bare.__dict__.pop("_is_accelerate_prepared", None)
    if accelerator.num_processes > 1:
        accelerator.free_memory()
        return bare
    # in one process there is nothing but these lists, and free_memory collects garbage: a quarter of a second in every phase
    accelerator._models.clear()
    accelerator._optimizers.clear()
    return bare
