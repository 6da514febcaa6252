"""Steps of the methods whose head is the text tower, as ratios within one run.

    python benchmarks/clip_step.py                     # towers as wide as the tiny demo CLIP, 48 px, batch 32, CPU
    python benchmarks/clip_step.py --device cuda --width 512 --side 224 --batch 64

Three questions: does a step of CPE-CLIP grow with the classes seen (only the session's own are encoded: session 8 of 60 + 8 x 5 against
session 1, goal 1.10); how often are texts encoded in evaluation (each class once per session); what does GLAD's second pass cost (against
plain LoRA, goal 2.1). The steps of a pair alternate, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from accelerate import Accelerator
from peft import get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from hf_cl.adapters import GladConfig
from hf_cl.backbones import ClipClassifier
from hf_cl.checkpoints.tensors import named_parameters
from hf_cl.contracts import Method, Session
from hf_cl.methods import cpe_clip, glad
from hf_cl.training.prepare import prepare_phase
from hf_cl.training.step import MicroBatch, Stepper

BASE, WAY, SESSIONS = 60, 5, 8
NAMES = [f"thing {i}" for i in range(BASE + WAY * SESSIONS)]
WARM_UP = 3

Step = Callable[[int], None]


def tokenizer() -> PreTrainedTokenizerFast:
    """One id per word of NAMES and of "a photo of a"."""
    words = ["<pad>", "<bos>", "a", "photo", "of", ".", "thing", *map(str, range(len(NAMES))), "<eos>"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="."))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<bos>", words.index("<bos>")), ("<eos>", words.index("<eos>"))]
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


class Case:
    """A method on a random CLIP that knows the classes of one session and all before it."""

    def __init__(self, options: argparse.Namespace, accelerator: Accelerator, method: Method, session_id: int) -> None:
        torch.manual_seed(0)
        seen = NAMES[: BASE + WAY * session_id]
        new = seen[-WAY:] if session_id else seen
        self.session = Session(session_id, tuple(seen), tuple(new), train=range(options.batch), tests=())  # type: ignore[arg-type]
        self.config = method.adapter
        self.config.class_names = list(seen)
        self.model = get_peft_model(clip(options), self.config).to(accelerator.device)
        self.classifier = ClipClassifier(self.model.get_base_model(), self.config, tokenizer())
        device, first = accelerator.device, len(seen) - len(new)
        self.images = torch.randn(options.batch, 3, options.side, options.side, device=device)
        self.labels = torch.randint(first, len(seen), (options.batch,), device=device)
        self.method, self.accelerator, self.first = method, accelerator, first

    def step(self) -> Step:
        """A training step as the loop makes it."""
        phase = self.method.phases(self.session)[0]
        whole = any("all_classes" in term.needs for term in phase.losses)
        self.classifier.head.training_classes = None if whole else range(self.first, len(self.session.class_names))
        named = named_parameters(self.model, self.model.base_model.prefix, self.classifier.head, phase.losses)
        self.method.rule.begin_session(None, self.session)  # type: ignore[arg-type]
        optimizer, schedule = self.method.optimizer(self.session, named)
        prepared, optimizer = prepare_phase(self.accelerator, self.classifier, optimizer)
        prepared.train()
        rule, given = self.method.rule, self.model.base_model.given
        stepper = Stepper(phase, self.session, rule, prepared, optimizer, named, self.accelerator, None, None, given)
        batch = MicroBatch({"pixel_values": self.images, "labels": self.labels, "index": self.labels}, 1.0)
        return lambda number: stepper.step([batch], 0, number, schedule(0, 0))

    def texts_encoded_in_evaluation(self, batches: int) -> int:
        """Rows that pass the text tower while so many batches are evaluated."""
        counted: list[int] = []
        tower = self.model.get_base_model().text_model
        handle = tower.register_forward_hook(lambda module, inputs, output: counted.append(len(output.pooler_output)))
        with torch.no_grad():
            for _ in range(batches):
                self.classifier.eval()(self.images)
        handle.remove()
        return sum(counted)


def clip(options: argparse.Namespace) -> CLIPModel:
    vocabulary = len(tokenizer())
    shape = {"hidden_size": options.width, "num_attention_heads": options.width // 64, "intermediate_size": 4 * options.width}
    text = {**shape, "num_hidden_layers": 4, "vocab_size": vocabulary, "eos_token_id": vocabulary - 1, "bos_token_id": 1, "pad_token_id": 0}
    vision = {**shape, "num_hidden_layers": 6, "image_size": options.side, "patch_size": 8 if options.side < 100 else 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=options.width))


def seconds(step: Step, number: int, device: torch.device) -> float:
    started = time.perf_counter()
    step(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(title: str, goal: float, pair: dict[str, Step], steps: int, device: torch.device) -> None:
    times: dict[str, list[float]] = {name: [] for name in pair}
    for number in range(steps + WARM_UP):
        for name, step in pair.items():
            elapsed = seconds(step, number, device)
            if number >= WARM_UP:
                times[name].append(elapsed)
    (_, one), (_, other) = times.items()
    of_medians = statistics.median(one) / statistics.median(other)
    of_pairs = statistics.median(a / b for a, b in zip(one, other, strict=True))
    print(title)
    for name, values in times.items():
        print(f"  {name:<22}{1e3 * statistics.median(values):9.1f} ms a step")
    print(f"  ratio {of_medians:.3f} (of medians), {of_pairs:.3f} (median of pairs); goal {goal}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()

    accelerator = Accelerator(cpu=options.device == "cpu")
    device = accelerator.device
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads; CLIP {options.width} wide, batch {options.batch}")
    late, early = (Case(options, accelerator, cpe_clip(), session) for session in (SESSIONS, 1))
    pair = {"session 8, 100 classes": late.step(), "session 1, 65 classes": early.step()}
    compare("CPE-CLIP, five new classes in either session", 1.10, pair, options.steps, device)
    batches = 4
    print(f"  evaluation of {batches} batches encodes {late.texts_encoded_in_evaluation(batches)} texts of {len(NAMES)} classes")
    cases = {
        name: Case(options, accelerator, glad(adapter=GladConfig(rule=rule)), 0) for name, rule in (("GLAD", "glad"), ("LoRA", "none"))
    }
    compare("GLAD against plain LoRA, 60 classes", 2.1, {name: case.step() for name, case in cases.items()}, options.steps, device)


if __name__ == "__main__":
    main()
