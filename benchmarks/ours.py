"""hf_cl's side: a training step as the loop makes it, on one fixed batch, and the models and sessions it runs on.

Shapes: B batch, C classes, S image side.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast, ViTConfig, ViTForImageClassification

from hf_cl.backbones import ClipClassifier, classifier_of
from hf_cl.checkpoints.tensors import named_parameters
from hf_cl.contracts import Method, Phase, Session
from hf_cl.training.compiling import compile_backbone
from hf_cl.training.frozen import FrozenStates
from hf_cl.training.needs import num_views
from hf_cl.training.prepare import prepare_phase
from hf_cl.training.step import MicroBatch, Stepper

CLASSES = tuple(f"w{i}" for i in range(20))
FIRST_NEW = 10
WIDTHS = {"rehearsal": (24, 3), "tiny": (192, 3), "base": (768, 12)}
"""Size -> width and heads of a ViT/16 with 12 layers."""
BATCH = {"rehearsal": 2, "tiny": 4, "base": 2}
BOS, EOS, WORDS = 298, 299, 300
PRECISION = "no"
"""Of accelerators that are not told otherwise; the GPU's rows set it."""


def session(number: int = 1, seen: tuple[str, ...] = CLASSES, new: int = 10) -> Session:
    return Session(number, seen, seen[len(seen) - new :], train=(), tests=())


def vit(size: str = "tiny", layers: int = 12) -> ViTForImageClassification:
    """A ViT/16 at 224 px with random weights."""
    torch.manual_seed(0)
    width, heads = WIDTHS[size]
    return ViTForImageClassification(
        ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            num_labels=0,
            layer_norm_eps=1e-6,
        )
    )


def clip(size: str = "tiny") -> CLIPModel:
    """Vision and text tower with random weights: ViT-B/16 shapes of CLIP for `base`."""
    torch.manual_seed(0)
    width, heads = WIDTHS[size]
    text_width, text_heads = (512, 8) if size == "base" else (width, heads)
    text = {
        "hidden_size": text_width,
        "num_attention_heads": text_heads,
        "num_hidden_layers": 12,
        "intermediate_size": 4 * text_width,
        "vocab_size": WORDS,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
        "projection_dim": text_width,
    }
    vision = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": 12,
        "intermediate_size": 4 * width,
        "patch_size": 16,
        "projection_dim": text_width,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=text_width))


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token: w0 ... w199."""
    inner = Tokenizer(models.WordLevel({"<unk>": 0, ".": 1, **{f"w{i}": 10 + i for i in range(200)}, "<bos>": BOS, "<eos>": EOS}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<eos>", unk_token="<unk>", model_max_length=77
    )


def images(batch: int, device: torch.device, seed: int = 1) -> Tensor:
    """[B, 3, 224, 224]"""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(seed)).to(device)


def labels(batch: int, device: torch.device) -> Tensor:
    """[B], of the session's new classes, each twice."""
    return (FIRST_NEW + torch.arange(batch) // 2 % (len(CLASSES) - FIRST_NEW)).to(device)


def accelerator(device: torch.device, precision: str | None = None, compile: bool = False) -> Accelerator:
    """A new one; accelerate keeps precision and device in process-wide state."""
    AcceleratorState._reset_state()
    GradientState._reset_state()
    PartialState._reset_state()
    made: Any = Accelerator(cpu=device.type == "cpu", mixed_precision=precision or PRECISION)
    made.compiles = compile
    return made


class OurStep:
    """Model, classifier and optimizer step of a method in one session, as `ContinualTrainer` puts them together.

    Args:
        base: without an adapter.
        method: its first phase with epochs is run.
        now: the session; its classes are the head's.
        where: a fresh `accelerator()`.
        before: called with the tuner before the optimizer is made: what earlier sessions would have done.
    """

    def __init__(self, base: nn.Module, method: Method, now: Session, where: Accelerator, before: Any = lambda tuner: None) -> None:
        config: Any = method.adapter
        config.class_names, config.classes_per_session = list(now.class_names), [len(now.class_names)]
        self.model: Any = get_peft_model(base, config).to(where.device)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.tuner: Any = self.model.base_model
        if where.compiles:  # pyright: ignore[reportAttributeAccessIssue]
            compile_backbone(self.model.get_base_model())
        self.classifier = classifier_of(self.model, tokenizer())
        before(self.tuner)
        self.method, self.session, self.accelerator, self.number = method, now, where, 0
        self.phase = next(phase for phase in method.phases(now) if phase.epochs)
        self.parts = [part for part in (*self.phase.losses, *method.parts, method.rule) if type(part).__name__ != "Prototypes"]
        named = named_parameters(self.model, self.tuner.prefix, self.classifier.head, self.phase.losses)
        self.trainer: Any = SimpleNamespace(tuner=self.tuner, head=self.classifier.head, model=self.model, session=now)
        for part in self.parts:
            part.begin_session(self.trainer, now)
        optimizer, self.schedule = method.optimizer(now, named)
        self._prepare(self.phase, named, optimizer)

    def _prepare(self, phase: Phase, named: Any, optimizer: Any) -> None:
        for name, parameter in named:
            parameter.requires_grad_(phase.trainable(name))
        if isinstance(self.classifier, ClipClassifier) and not any("all_classes" in term.needs for term in phase.losses):
            self.classifier.head.training_classes = range(self.session.first_new_class, len(self.session.class_names))
        for part in self.parts:
            part.begin_epoch(self.trainer, 0)
        frozen = FrozenStates(self.classifier, self.accelerator, self.tuner)
        model, optimizer = prepare_phase(self.accelerator, self.classifier, optimizer)
        model.train()
        grad_norm = self.method.max_grad_norm
        rule, given = self.method.rule, self.tuner.given
        self.stepper = Stepper(phase, self.session, rule, model, optimizer, named, self.accelerator, grad_norm, frozen.run, given)
        self.prepared = model

    def batch(self, *views: Tensor, labels: Tensor) -> MicroBatch:
        """As many views as the phase's losses read. New tensor objects each time: hf_cl knows a batch by identity."""
        fresh = [view.view_as(view) for view in views[: num_views(self.phase)]]
        pixels = dict(zip(("pixel_values", "pixel_values_1"), fresh, strict=False))
        return MicroBatch({**pixels, "labels": labels, "index": torch.arange(len(labels), device=labels.device)}, 1.0)

    def __call__(self, batch: MicroBatch) -> None:
        self.stepper.step([batch], 0, self.number, self.schedule(0, self.number))
        self.number += 1
        self.trainer.contexts = self.stepper.contexts
        for part in self.parts:
            part.after_step(self.trainer)
        self.trainer.contexts = self.stepper.contexts = ()

    def losses(self) -> dict[str, float]:
        """Mean losses since the last call."""
        return self.stepper.read()[0]
