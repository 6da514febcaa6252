"""How a run is trained, apart from the method: what every recipe shares."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import ConfigDict

from hf_cl.byte_sizes import byte_size
from hf_cl.hints import refuse
from hf_cl.secrets import check_no_secrets

if TYPE_CHECKING:
    from hf_cl.contracts import Method

MAY_CHANGE_ON_RESUME = frozenset(
    {
        "output_dir",
        "imports",
        "resume",
        "num_workers",
        "image_memory",
        "image_cache",
        "feature_cache",
        "check_images",
        "logging_steps",
        "checkpoint_steps",
        "checkpoint_minutes",
        "keep_adapters",
        "export_statistics",
        "marks",
        "strict_data",
        "session_from",
        "report_to",
        "memory_dir",
        "tuned_on",
        "push_to_hub",
        "private",
        "license",
    }
)
"""Settings that change no weight and no result."""

MAY_GROW_ON_RESUME = frozenset({"dataset", "class_order", "classes_per_session"})
"""Settings of the stream: a collection may lie elsewhere and have more classes, which come after those that were taught. What was taught is
compared itself (`checkpoints.taught`)."""


KEEP_ADAPTERS = r"all|last|every:[1-9]\d*"


def keeps_adapter(policy: str, session: int) -> bool:
    """Whether the adapter of a session stays when a later one is there, by the setting `keep_adapters`."""
    kind, _, step = policy.partition(":")
    return kind == "all" or (kind == "every" and session % int(step) == 0)


@dataclass
class TrainingSettings:
    """Settings of the loop. Batch sizes are global: n processes use 1/n of them each.

    Raises ValueError for sizes below 1, and for a setting that holds a token or a password.
    """

    __pydantic_config__: ClassVar = ConfigDict(allow_inf_nan=False)

    output_dir: str = "runs/latest"
    """The run folder: adapters, checkpoints, results, report, card."""
    backbone: str = "demo"
    """A Hub id or folder, `open_clip:<model>/<weights>`, `demo` or `demo_clip` (both ship with hf_cl)."""
    backbone_revision: str | None = None
    """Hub revision of the base."""
    seed: int = 0
    """Everything random but the split: initial values, order of the data, augmentation, dropout."""
    batch_size: int = 128
    """Images per optimizer step."""
    eval_batch_size: int = 256
    """Images per forward in evaluation and feature extraction."""
    gradient_accumulation_steps: int = 1
    """Micro-batches per optimizer step."""
    augmentation: str = "crop_flip"
    """A name of `hf_cl.images.AUGMENTATIONS`."""
    mixed_precision: Literal["no", "bf16", "fp16"] | None = None
    """None: what `accelerate launch` says. On a CPU, bf16 is faster where it has the arithmetic (`lscpu` says avx512_bf16 or amx_bf16)."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    deterministic: bool = False
    """The same bytes from every run on a GPU too, by kernels that are slower; a CPU gives them without."""
    compile: bool | None = None
    """torch.compile the model; None: what `accelerate launch` says."""
    cpu: bool = False
    """Stay on the CPU although there is a GPU."""
    num_workers: int = 2
    """Threads that decode images."""
    image_memory: float | str = 0.25
    """Memory for decoded images, of all processes of a machine together: bytes (`8GiB`, 4e9), or up to 1 a share of what is free."""
    image_cache: str | None = None
    """A folder on a fast disk for decoded training images that memory has no room for; emptied when the run ends."""
    feature_cache: str | None = None
    """A folder that keeps features of the backbone as the run found it, by weights, processor and picture; runs share it."""
    logging_steps: int = 10
    """Optimizer steps between two readings of the losses."""
    checkpoint_steps: int | None = None
    """Optimizer steps between two checkpoints inside a session; None: only the time and the session's end count."""
    checkpoint_minutes: float | None = 10.0
    """Minutes between two checkpoints inside a session; None: only the steps and the session's end count."""
    keep_adapters: str = "all"
    """Whose adapter stays in `adapters/`: `all` sessions', the `last` one's, or `every:10` (of sessions 0, 10, 20, ... and the last)."""
    export_statistics: bool = False
    """Write means and scatters of the classes' features beside every adapter, as `class_statistics.safetensors`: to go on from it."""
    marks: list[Literal["means", "gaussian", "joint"]] = field(default_factory=list)
    """What the run is measured beside: class `means` and a `gaussian` head on the untouched backbone, the same training on all at once."""
    stability_every: int | None = None
    """Optimizer steps between two evaluations on all sessions so far, for the stability gap; None: evaluate at the end of sessions."""
    probes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Observers by name, each with its settings, such as '{stability: {every: 20}}'; `hf-cl list probes` shows them."""
    imports: list[str] = field(default_factory=list)
    """Files and modules with parts of your own, imported before anything is made of the settings; the flag is --import, once for each."""
    resume: Literal["auto"] | None = None
    """`auto`: go on from the newest whole checkpoint of `output_dir`, or start where there is none."""
    strict_data: bool = False
    """Go on only where the images of taught classes are those they were: none gone, none new, none moved."""
    report_to: list[str] = field(default_factory=list)
    """Trackers of accelerate: tensorboard, wandb, trackio."""

    def __post_init__(self) -> None:
        check_no_secrets(vars(self))
        refuse(self.faults())

    def faults(self) -> list[str]:
        """What is wrong with the values, a sentence each. A method's settings add theirs."""
        counts = ["batch_size", "eval_batch_size", "gradient_accumulation_steps", "logging_steps", "num_workers"]
        asked = ("checkpoint_steps", "stability_every", "max_sessions", "classes_per_session")
        counts += [name for name in asked if vars(self).get(name) is not None]
        faults = [f"{name} must be at least 1, got {getattr(self, name)}." for name in counts if getattr(self, name) < 1]
        faults += [
            f"{name} must be at least 0, got {value}."
            for name, value in vars(self).items()
            if name.endswith(("epochs", "learning_rate", "weight_decay")) and value is not None and value < 0
        ]
        if self.checkpoint_minutes is not None and self.checkpoint_minutes <= 0:
            faults.append(f"checkpoint_minutes must be positive, got {self.checkpoint_minutes}.")
        try:
            byte_size(self.image_memory)
        except ValueError as error:
            faults.append(f"image_memory: {error}")
        if not re.fullmatch(KEEP_ADAPTERS, self.keep_adapters):
            faults.append(f"keep_adapters must be all, last or every:N such as every:10, got {self.keep_adapters!r}.")
        if self.resume not in (None, "auto"):
            faults.append(f"resume must be 'auto' or absent, got {self.resume!r}.")
        return faults


@dataclass
class RunSettings(TrainingSettings):
    """Everything a recipe needs besides its method: base, data and stream. Each method adds its own settings in a subclass."""

    normalize: bool = True
    """False: feed pixels in [0, 1] although the base's processor would normalise them (OVOR's presets)."""
    dataset: str = "digits"
    """A Hub id, a folder of parquet or arrow files, a folder of images, or `digits` (ships with scikit-learn)."""
    image_column: str | None = None
    """Needed where the data set has several image columns."""
    label_column: str | None = None
    """Needed where the data set has several label columns."""
    domain_column: str | None = None
    """Of a table, the column that says of which domain each picture is, for `domain_incremental`."""
    test_split: str = "test"
    """The split that is tested on."""
    skip_bad_images: bool = False
    """Leave unreadable images out, with a warning, instead of stopping before training."""
    exclude: str | None = None
    """A file with a line for each picture to leave out, as `--write_exclude` of `hf-cl data` writes it; splits and draws stay."""
    check_images: Literal["all", "changed", "header", "none"] = "changed"
    """Which images are decoded before training to find broken ones: `all`, those `changed` since they were last found whole, none but with
    a look at the `header` of the changed ones, or `none`."""
    protocol: str = "class_incremental"
    """A name of `hf_cl.scenarios.SCENARIOS`: which classes and images each session brings, and what is tested."""
    protocol_options: dict[str, Any] = field(default_factory=dict)
    """Arguments that this protocol alone has, such as '{online: true}' of class_incremental or '{num_sessions: 5}' of si_blurry."""
    num_base_classes: int = 10
    """Classes of session 0."""
    classes_per_session: int = 10
    """Classes of each later session."""
    class_order: str | None = None
    """natural, seed, pycil, coda, or a file with one class name per line; absent: `seed` in `class_incremental`, `natural` with few shots.
    Other protocols have an order of their own."""
    class_order_seed: int = 0
    """Seed of the order and of own splits."""
    shots: int | None = None
    """Training images per class, for protocols with few shots."""
    index_list: str | None = None
    """A folder with published lists of images; absent: an own draw by class_order_seed."""
    targets: list[str] = field(default_factory=list)
    """Data sets to test on, for protocols that train on one and test on others; the later domains of `domain_incremental`."""
    start_from: str | None = None
    """An adapter to go on from, a folder or a Hub id: what it knows is session 0, which is measured and not trained."""
    session_from: Literal["new_classes", "new_pictures"] = "new_classes"
    """What makes the next session of a run that goes on: `new_classes` alone, or first the `new_pictures` of classes that it has taught."""
    validation_fraction: float = 0.0
    """Share of the training images that is kept out for validation."""
    test_on: Literal["test", "validation"] = "test"
    """`validation`: measure on the images that validation_fraction keeps out, and leave the test images alone (`hf-cl tune` does)."""
    max_sessions: int | None = None
    """Train the first sessions alone; later ones are never opened."""
    tuned_on: str | None = None
    """What the settings were chosen on, as `hf-cl tune` writes it down for the card; it changes nothing."""
    push_to_hub: str | None = None
    """Repository on the Hub (`owner/name`) that gets the run at its end, one revision per session; token and name are checked first."""
    private: bool = False
    """Make that repository private."""
    license: str | None = None
    """License of the adapter for its card, an identifier of the Hub such as apache-2.0."""

    def method(self) -> Method:
        """The method these settings describe; each recipe's settings say which."""
        raise NotImplementedError(f"{type(self).__name__} describes no method")
