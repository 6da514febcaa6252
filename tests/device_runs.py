"""Runs of the whole loop on the fake device: which there are, and what each may wait for.

A new method, head or tower joins by one line in `RUNS`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import two_towers
from fake_device import Elsewhere, FakeDevice
from stream import Stream
from tiny import SIZE, TEXT
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPImageProcessor,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import AsyncLoraConfig, CPEClipConfig, GladConfig, SaraConfig
from hf_cl.contracts import Method, Probe
from hf_cl.contrib.noise_windows import NoisyCrossEntropy
from hf_cl.methods import (
    CodaPromptSettings,
    DstSettings,
    DualPromptSettings,
    HyperLoraSettings,
    L2PSettings,
    MaskTuningSettings,
    MvpSettings,
    PelaSettings,
    SessionNormSettings,
    coact,
    compose,
    cpe_clip,
    dkvb,
    etf,
    frozen,
    glad,
    linear_probe,
    lora,
    mamba_fscil,
    maxsim,
    nearest_class_mean,
    ovor,
    prd,
    sara,
    slca,
)
from hf_cl.probes import Calibration, SharpnessProbe, SoftmaxCollapse, SuspectedLabels
from hf_cl.training.feature_cache import FeatureCache
from hf_cl.training.phase_loop import PhaseLoop
from hf_cl.training.session_loop import SessionLoop
from hf_cl.training.step import Stepper

LINEAR, COSINE, PROTOTYPE = {"type": "linear"}, {"type": "cosine"}, {"type": "prototype"}
GAUSSIAN, RIDGE, FETRIL = {"type": "gaussian"}, {"type": "ridge"}, {"type": "fetril"}
RANDOM_FEATURES = {"type": "gaussian", "feature_map": "rff", "map_dim": 16, "shrinkage": 0.1}
KEYS = {"codebooks": 4, "keys": 8, "key_dim": 4}
FRAME = {"num_classes_total": 6, "assignment": "greedy"}
VECTORS = {"vectors_per_class": 2, "out_dim": 16, "grid": 2}
SCAN = {"num_classes_total": 6, "grid": 2, "scan": {"d_state": 4, "dt_rank": 4}}
POOLER = {"type": "linear", "bias": False, "pooler": True}
TEXT_HEAD = {"type": "text"}
TARGETS = {"type": "language_targets", "text_model": "demo_clip", "center": True}
ORDERED = {"type": "nested_dropout", "head": LINEAR}
ORDERED_MEANS = {"type": "nested_dropout", "head": {"type": "gaussian", "covariance": "shared", "shrinkage": 0.1}}


# Towers
def vit(folder: Path, layers: int = 2) -> nn.Module:
    """A ViT whose checkpoint, in `folder`, has a pooler."""
    place = folder / f"vit-{layers}"
    size = {**SIZE, "num_hidden_layers": layers}
    model = ViTForImageClassification(ViTConfig(**size, num_labels=0))
    if not place.exists():  # afterwards: making it draws numbers
        ViTModel(ViTConfig(**size)).save_pretrained(place)
    model.config._name_or_path = model.name_or_path = str(place)
    return model


def clip_vision(folder: Path) -> nn.Module:
    config = CLIPConfig(vision_config={**SIZE, "num_hidden_layers": 2, "projection_dim": 16}, text_config=TEXT, projection_dim=16)
    config.num_labels = 2
    return CLIPForImageClassification(config)


def siglip_vision(folder: Path) -> nn.Module:
    config = SiglipConfig(vision_config={**SIZE, "num_hidden_layers": 2}, text_config=TEXT)
    config.num_labels = 2
    return SiglipForImageClassification(config)


def both(family: str) -> Callable[[Path], nn.Module]:
    """A model with two towers, of `two_towers.FAMILIES`."""
    return lambda folder: two_towers.base(family)


def clip(layers: int) -> Callable[[Path], nn.Module]:
    return lambda folder: two_towers.clip(layers, layers)


REASONS = {
    "dst/layer.py rewire": "a rewiring, every so many steps, finds out which entries stay",
    "dst/rewiring.py at_random": "the same, which of all are candidates",
    "sara/selection.py smallest": "the same, which entries are smallest",
    "heads/dkvb.py after_step": "the first three steps of a session are checked: does anything but chosen values move?",
    "cpe_clip/layer.py check_room": "a session's texts are looked at once: do they leave room for the prompts?",
    "sara/selection.py check_positions": "positions are looked at once after they were written: sorted, distinct, inside their tensor?",
    "sara/training.py <genexpr>": "a switch counts the entries that go on",
    "sara/layer.py <lambda>": "the count of a matrix's entries that train is read once after they have changed",
    "sara/sparse_linear.py cut": "positions are cut into blocks once after they were written",
    "sara/training.py _nuclear_norm": "singular values: every routine for them checks on the host whether it has converged",
}
"""Where a step may wait for the device -> why."""

EVERY_BATCH = "images/transfer.py to_device"
"""Not a wait: to a CUDA device a batch goes from pinned memory; the fake one has none."""


@dataclass(frozen=True)
class Run:
    """One line of the table."""

    method: Callable[[], Method]
    tower: Callable[[Path], nn.Module] = vit
    family: str | None = None
    """Of `two_towers.FAMILIES`, for its tokenizer; None: the head needs none."""
    waits: dict[str, int] = field(default_factory=dict)
    """Of `REASONS` -> in how many of the seven steps: three of session 0, two of session 1 before it is killed, two after."""
    settings: dict[str, Any] = field(default_factory=dict)
    probes: tuple[Callable[[], Probe], ...] = ()
    dies_in: int = 1
    """The session in whose second step it is killed; one that trains."""


# Methods, each with a head
def late_coact(head: dict[str, Any], **kwargs: Any) -> Method:
    """Two phases in session 0: LoRA, then block 1 too."""
    adapter = AsyncLoraConfig(r=4, unfreeze_from=1, unfreeze_epoch=1, head=dict(head))
    return coact(adapter=adapter, epochs=2, **kwargs)


def one_prompt(head: dict[str, Any], **kwargs: Any) -> Method:
    return ovor(epochs=1, vor_epochs=0, layer_tokens={0: 2, 1: 2}, head=head, **kwargs)


def three_phases(head: dict[str, Any]) -> Method:
    return ovor(epochs=1, vor_epochs=1, warmup_epochs=1, layer_tokens={0: 2, 1: 2}, head=head)


def prompts(**kwargs: Any) -> Method:
    adapter = CPEClipConfig(head=dict(TEXT_HEAD), prompt_depth=3, num_prompt_tokens=2)
    return cpe_clip(adapter=adapter, base_epochs=1, session_epochs=1, session_batch_size=None, **kwargs)


def text_lora(rule: str = "none") -> Method:
    return glad(adapter=GladConfig(rule=rule, head=dict(TEXT_HEAD)), iterations=3)


def sparse(head: dict[str, Any], **config: Any) -> Method:
    return sara(adapter=SaraConfig(density=0.1, head=dict(head), **config), epochs=1, switch_after=lambda session: 1)


def slow_learner(**kwargs: Any) -> Method:
    return slca(epochs=1, r=4, reverse_weight=0.1, head={"type": "linear", "age_scale": 0.02}, drift_map="ridge", **kwargs)


RANK_TERM = {"lambda_rank": 1e-3, "rank_min_dim": 8, "rank_min_nnz": 8}
SARA_WAITS = {"sara/selection.py check_positions": 2, "sara/layer.py <lambda>": 4, "sara/training.py <genexpr>": 2}
RANK_WAITS = {**SARA_WAITS, "sara/sparse_linear.py cut": 2, "sara/training.py _nuclear_norm": 7}
DST = {"epochs": 1, "density": 0.1, "update_every": 1, "growth": "random_unfired", "stop_fraction": 1.0}
DST_WAITS = dict.fromkeys(
    ("dst/layer.py rewire", "dst/rewiring.py at_random", "sara/selection.py smallest", "sara/selection.py check_positions"), 7
)
ROOM = {"cpe_clip/layer.py check_room": 3}

RUNS: dict[str, Run] = {
    # heads
    "linear probe": Run(partial(linear_probe, epochs=1)),
    "nearest class mean": Run(nearest_class_mean),
    **{
        f"lora, {head['type']} head": Run(partial(lora, epochs=1, r=4, head=head))
        for head in (LINEAR, COSINE, PROTOTYPE, GAUSSIAN, RIDGE, FETRIL)
    },
    "gaussian on random features": Run(partial(frozen, RANDOM_FEATURES)),
    "dkvb": Run(partial(dkvb, epochs=1, head=KEYS), waits={"heads/dkvb.py after_step": 5}),
    "mamba_fscil": Run(
        partial(mamba_fscil, epochs=1, session_epochs=1, head=SCAN, memory={"type": "class_means", "copies": 2, "base_copies": 1})
    ),
    "maxsim": Run(partial(maxsim, epochs=1, session_epochs=1, head=VECTORS)),
    "lora, maxsim head": Run(partial(lora, epochs=1, r=4, head={"type": "maxsim", **VECTORS})),
    "etf": Run(partial(etf, epochs=1, session_epochs=1, head=FRAME, memory={"type": "class_means", "copies": 2}, feature_mixup=0.5)),
    **{f"one prompt, {head['type']} head": Run(partial(one_prompt, head)) for head in (COSINE, PROTOTYPE)},
    "lora, language targets": Run(partial(lora, epochs=1, r=4, head=TARGETS)),
    "lora, nested dropout": Run(partial(lora, epochs=1, r=4, head=ORDERED)),
    "lora, pooler head": Run(partial(lora, epochs=1, r=4, head=POOLER)),
    # losses and probes by name
    "anchors": Run(
        partial(compose, losses={name: {} for name in ("l2_anchor", "ewc", "feature_distillation", "prediction_distillation")}, epochs=1)
    ),
    "noise": Run(partial(compose, main={"type": NoisyCrossEntropy.name}, epochs=1)),
    "memories": Run(
        partial(compose, losses={"early_learning": {}, "slope_cap": {}, "masked_views": {}}, rule={"type": "perp_grad"}, epochs=1),
        probes=(partial(SoftmaxCollapse, every=1), SuspectedLabels, SharpnessProbe, Calibration),
    ),
    # methods with several phases, losses, parts
    "ovor": Run(partial(three_phases, LINEAR)),
    "l2p": Run(lambda: L2PSettings(epochs=1, pool_size=6).method()),
    "dualprompt": Run(lambda: DualPromptSettings(epochs=1, e_layers=[1], g_layers=[0], vor_epochs=1).method()),
    "coda_prompt": Run(lambda: CodaPromptSettings(epochs=1, e_layers=[0, 1], components_per_session=2, orthogonality=0.1).method()),
    "mvp": Run(lambda: MvpSettings(epochs=1, e_layers=[1], g_layers=[0], pool_size=3, e_tokens=2).method()),
    "hyper_lora": Run(lambda: HyperLoraSettings(epochs=1, r=2, hidden_size=8, importance="fisher", regularize_sessions=1).method()),
    "coact": Run(partial(late_coact, POOLER, incremental_train="classifier+lora")),
    "coact, lora later": Run(partial(late_coact, POOLER, incremental_train="lora", incremental_unfrozen=True)),
    "coact, figure": Run(partial(late_coact, {"type": "linear"}, objective="figure", incremental_train="classifier+lora")),
    "coact, projector": Run(partial(late_coact, POOLER, incremental_train="classifier+lora", projector=(16, 8))),
    "slca": Run(partial(slow_learner, alignment={"epochs": 1, "samples_per_class": 4})),
    "prd": Run(partial(prd, epochs=1, r=4, projector=(16, 8))),
    "prd, over samples": Run(partial(prd, epochs=1, r=4, projector=(), axis="sample")),
    "sara": Run(partial(sparse, LINEAR), waits=SARA_WAITS),
    "sara in blocks, rank term": Run(partial(sparse, COSINE, block_rows=8, **RANK_TERM), waits=RANK_WAITS),
    **{f"glad, rule {rule}": Run(partial(text_lora, rule), both("clip"), "clip") for rule in ("glad", "sam", "sagm", "prograd")},
    "dst": Run(lambda: DstSettings(**DST).method(), waits=DST_WAITS),
    "mask_tuning": Run(lambda: MaskTuningSettings(rule="none", head=LINEAR, epochs=1, learning_rate=0.01, sessions="stack").method()),
    "r-amt": Run(lambda: MaskTuningSettings(epochs=1).method(), both("clip"), "clip"),
    "session_norm": Run(lambda: SessionNormSettings(epochs=1).method()),
    "pela": Run(lambda: PelaSettings(epochs=2, learning_rate=1e-3, deviation_weight=0.5, adapt_sessions="all", head=LINEAR).method()),
    "compander": Run(partial(compose, adapter={"type": "compander", "learn": True}, epochs=1)),
    # towers
    **{f"lora, {tower.__name__}": Run(partial(lora, epochs=1, r=4), tower) for tower in (clip_vision, siglip_vision)},
    "coact, clip_vision": Run(partial(late_coact, LINEAR), clip_vision),
    "sara, siglip_vision": Run(partial(sparse, LINEAR), siglip_vision, waits=SARA_WAITS),
    **{f"cpe_clip, {family}": Run(prompts, both(family), family, {} if family == "clip" else ROOM) for family in two_towers.FAMILIES},
    "text lora, siglip": Run(text_lora, both("siglip"), "siglip"),
    # ways of the loop
    "lora, micro-batches": Run(partial(lora, epochs=1, r=4), settings={"gradient_accumulation_steps": 2}),
    "lora, gradient checkpointing": Run(partial(lora, epochs=1, r=4), settings={"gradient_checkpointing": True}),
    "coact, strong augmentation": Run(partial(late_coact, POOLER), settings={"augmentation": "strong"}),
}
"""Name -> the run. Every one of them is killed inside session 1 and resumed."""


class _Killed(Exception):
    """What ends a run in between."""


class Kill(Probe):
    """Ends a run after one of its steps."""

    name = "kill"

    def __init__(self, session: int) -> None:
        self.session, self.steps = session, 0

    def begin_session(self, trainer: Any, session: Any) -> None:
        self.steps = 0

    def after_step(self, trainer: Any) -> None:
        self.steps += 1
        if trainer.session.id == self.session and self.steps == 2:
            raise _Killed


def build(run: Run, output_dir: Path, folder: Path, *, probes: Any = (), sessions: int = 2, **settings: Any) -> ContinualTrainer:
    """Sessions of two classes, 12 images to train on in 3 steps and 4 to test on in each."""
    values = {"batch_size": 4, "eval_batch_size": 16, "augmentation": "none", "cpu": True, "num_workers": 1, "logging_steps": 2}
    stream: Any = Stream(sessions, train=6, test=2)
    torch.manual_seed(0)
    base = run.tower(folder)
    tokenizer, processor = None, ViTImageProcessor(size={"height": 32, "width": 32})
    if run.family is not None:
        stream.names = stream.class_names = tuple(f"w{10 + i}" for i in range(2 * sessions))
        processor = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
        tokenizer = two_towers.tokenizer_of(run.family)
        if run.family == "siglip":
            tokenizer.model_input_names = ["input_ids"]  # as the published ones: SigLIP reads its padding
    chosen = TrainingSettings(output_dir=str(output_dir), **{**values, **run.settings, **settings})
    observers = [*(make() for make in run.probes), *probes]
    return ContinualTrainer(base, processor, run.method(), stream, chosen, quiet=True, tokenizer=tokenizer, probes=observers)


@dataclass
class Found:
    """What a run on the fake device showed."""

    waits: dict[str, int] = field(default_factory=dict)
    """Where a step waited -> in how many steps."""
    left_behind: list[str] = field(default_factory=list)
    """Tensors of adapter, head, losses, parts and rule that are not on the device, as paths of attributes."""


def on_the_device(run: Run, output_dir: Path, folder: Path, *, killed: bool = True) -> Found:
    """Run it on the fake device, killed inside a session and resumed, or (`killed=False`) in one go.

    Raises MixedDevicesError where an operation met tensors of both memories.
    """
    found, steps = Found(), defaultdict(set)
    for dies in (run.dies_in, -1) if killed else (-1,):
        trainer = build(run, output_dir, folder, probes=[Kill(dies)], checkpoint_steps=1, resume="auto")
        with FakeDevice() as device, _watched(device), suppress(_Killed):
            trainer.fit()
        for (where, _), when in device.waits.items():
            steps[where] |= {(dies, step) for step in when}
    found.waits = {where: len(when) for where, when in steps.items() if where != EVERY_BATCH}
    parts = {"tuner": trainer.tuner, **trainer.named_parts()}
    found.left_behind = [path for name, part in parts.items() for path in _on_the_host(part, name, {id(trainer)})]
    return found


def _on_the_host(value: Any, path: str, seen: set[int]) -> Iterator[str]:
    """Paths of the tensors below `value` that are plain ones."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        if not isinstance(value, Elsewhere) and value.dim() > 0:
            yield path
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _on_the_host(item, f"{path}[{key!r}]", seen)
    elif isinstance(value, list | tuple | set):
        for number, item in enumerate(value):
            yield from _on_the_host(item, f"{path}[{number}]", seen)
    elif type(value).__module__.startswith(("hf_cl", "torch.nn", "peft")):
        for key, item in vars(value).items():
            yield from _on_the_host(item, f"{path}.{key}", seen)


@contextmanager
def _watched(device: FakeDevice) -> Iterator[None]:
    """Watch an epoch, steps and hooks and all, but not where the losses are read or a checkpoint is written."""

    def within(on: bool, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with device.watching(on):
                return original(*args, **kwargs)

        return call

    def step(self: Stepper, micro_batches: Any, epoch: int, number: int, rates: Any) -> bool:
        device.now = number
        return original(self, micro_batches, epoch, number, rates)

    original = Stepper.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stepper, "step", step)
        patch.setattr(PhaseLoop, "_run_epoch", within(True, PhaseLoop._run_epoch))
        for owner, name in ((PhaseLoop, "_read"), (SessionLoop, "checkpoint"), (FeatureCache, "of")):
            patch.setattr(owner, name, within(False, getattr(owner, name)))
        yield
