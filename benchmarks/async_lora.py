"""CoACT with one backbone in all roles against a model of its own for each: steps of session 0 and of later sessions, resident bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks import by_hand, ours, steps
from benchmarks.measure import MIB, Options, Row, flops, paired, resident_bytes
from hf_cl.adapters import AsyncLoraConfig
from hf_cl.adapters.bases import signature
from hf_cl.methods import coact

UNFREEZE_FROM = 11
BASE_CLASSES = 10


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        yield from _size(size, options)


def _size(size: str, options: Options) -> Iterator[Row]:
    mine, call, theirs = steps.coact_step(size, options)
    steps.check_same(mine, call, theirs, "ASYNC_LORA, session 0")
    group, separate = "CoACT", "separate student, teacher and base"
    yield paired(call, theirs, options).row(group, f"step of session 0, {size}", separate, ">= 0.95")

    mine = _later(size, options)
    views, labels = [ours.images(ours.BATCH[size], options.device, seed) for seed in (1, 2)], ours.labels(ours.BATCH[size], options.device)
    models = [by_hand.SeparateModels(ours.vit(size).to(options.device), mine, 1.0, UNFREEZE_FROM) for _ in range(4)]
    for plain in models[2:]:  # without LoRA
        plain.vit = by_hand.ViT(ours.vit(size).to(options.device).requires_grad_(False))
    later = by_hand.coact_later(models[0], models[1], models[2:], (views[0], views[1]), labels, BASE_CLASSES)
    run = lambda: mine(mine.batch(*views, labels=labels))  # noqa: E731
    steps.check_same(mine, run, later, "ASYNC_LORA, later session")
    allowed = flops(run) / flops(later)
    row = paired(run, later, options).row(group, f"step of a later session, {size}", "separate models", f">= {1 / 0.9:.3f}")
    row.detail += f"; operations allow {1 / allowed:.3f}; the goal is a step of 0.9 times theirs"
    yield row

    states = vars(mine.tuner.states["default"])
    one = resident_bytes(list(mine.model.state_dict().values()), [list((s or {}).values()) for s in states.values() if isinstance(s, dict)])
    three = 3 * resident_bytes(list(ours.vit(size).state_dict().values()))
    detail = f"{one / MIB:.1f} MiB in a later session against {three / MIB:.1f} MiB; copies, averages, LoRA and head included on our side"
    yield Row(group, f"resident bytes, {size}", "three models", one / three, "<= 0.40", detail)


def _later(size: str, options: Options) -> ours.OurStep:
    """A session after the first: block 11 has been unfrozen, its states are kept, LoRA and rows train."""
    config = AsyncLoraConfig(unfreeze_from=UNFREEZE_FROM, lora_dropout=0.0, head={"type": "linear", "bias": False, "pooler": True})
    config.base_signature = signature(ours.vit(size))
    method = coact(adapter=config, epochs=1, learning_rate=by_hand.COACT_RATE, incremental_train="classifier+lora")

    def first_session(tuner: Any) -> None:
        states = tuner.states["default"]
        states.pretrained = {name: p.detach().clone() for name, p in tuner._pooler("default").items()}
        tuner.unfreeze()
        tuner.keep("base", "base_teacher")
        for name, tensor in states.base.items():  # the base session's rows alone
            if name.endswith("default.weight") and tensor.shape[0] == len(ours.CLASSES):
                states.base[name] = tensor[:BASE_CLASSES].clone()

    return ours.OurStep(ours.vit(size), method, ours.session(1), ours.accelerator(options.device), before=first_session)
