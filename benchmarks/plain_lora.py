"""Plain LoRA through hf_cl against peft's LoRA in a plain accelerate loop, and against transformers' Trainer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainingArguments, ViTImageProcessor

from benchmarks import ours
from benchmarks.measure import Options, Pair, Row, now, paired
from benchmarks.streams import Pictures, Stream
from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.contracts import Part
from hf_cl.methods import lora

RANK = 8


def rows(options: Options) -> Iterator[Row]:
    for size in options.sizes:
        yield _against_accelerate(size, options)
    yield _against_trainer(options)


def _against_accelerate(size: str, options: Options) -> Row:
    base, count = ours.vit(size).to(options.device), ours.BATCH[size]
    images, labels = ours.images(count, options.device), ours.labels(count, options.device)
    where = ours.accelerator(options.device)
    mine = ours.OurStep(ours.vit(size), lora(epochs=1, r=RANK), ours.session(), where)
    batch = mine.batch(images, labels=labels)
    base.classifier = torch.nn.Linear(base.config.hidden_size, len(ours.CLASSES), device=options.device)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj"], modules_to_save=["classifier"])
    model: Any = get_peft_model(base, config)
    optimizer: Any = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    model, optimizer = where.prepare(model, optimizer)
    model.train()

    def theirs() -> None:
        logits = model(pixel_values=images).logits
        where.backward(F.cross_entropy(logits[:, ours.FIRST_NEW :], labels - ours.FIRST_NEW))
        optimizer.step()
        optimizer.zero_grad()

    return paired(lambda: mine(batch), theirs, options).row("plain LoRA", f"training step, {size}", "peft in an accelerate loop", ">= 0.98")


class _Clock(Part):
    """From the first step's end to the last one's."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.times = device, []

    def after_step(self, trainer: Any) -> None:
        self.times.append(now(self.device))


def _against_trainer(options: Options) -> Row:
    """Whole runs of one session: reading images, steps, logging. Both read pictures in memory, without augmentation."""
    mine, theirs = [], []
    for number in range(max(2, options.repeats // 2)):
        for side in (_our_run, _their_run) if number % 2 == 0 else (_their_run, _our_run):
            (mine if side is _our_run else theirs).append(side(options))
    return Pair(mine, theirs).row("plain LoRA", "step in a whole run, tiny", "transformers' Trainer", ">= 1.0", "milliseconds are a step's")


STEPS = 6


def _our_run(options: Options) -> float:
    stream = Stream(1, 10, STEPS * ours.BATCH["tiny"], 1)
    clock, method = _Clock(options.device), lora(epochs=1, r=RANK)
    method = type(method)(**{**method.__dict__, "parts": [clock]})
    ours.accelerator(options.device)
    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingSettings(folder, batch_size=ours.BATCH["tiny"], augmentation="none", cpu=options.device.type == "cpu")
        ContinualTrainer(ours.vit(), ViTImageProcessor(), method, stream, settings, quiet=True).fit()
    return (clock.times[-1] - clock.times[0]) / (len(clock.times) - 1)


def _their_run(options: Options) -> float:
    base = ours.vit()
    base.classifier = torch.nn.Linear(base.config.hidden_size, 10)
    base.num_labels = base.config.num_labels = 10
    base.config.problem_type = "single_label_classification"
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=["q_proj", "k_proj", "v_proj"], modules_to_save=["classifier"])
    model, processor, pictures = get_peft_model(base, config), ViTImageProcessor(), Pictures(STEPS * ours.BATCH["tiny"], range(10), 224)
    times: list[float] = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    class Clocked(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            times.append(now(options.device))
            return super().training_step(*args, **kwargs)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=ours.BATCH["tiny"],
            num_train_epochs=1,
            use_cpu=options.device.type == "cpu",
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        Clocked(model=model, args=arguments, train_dataset=pictures, data_collator=collate).train()  # pyright: ignore
    return (times[-1] - times[0]) / (len(times) - 1)
