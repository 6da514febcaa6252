"""The contracts of hf_cl: six kinds of file (adapter, head, loss, gradient rule, scenario, probe) and what passes between them.

This module knows torch alone. Everybody may import it; it imports nothing of the package.

Shapes: B batch, N tokens, D feature width, E embedding width, C classes seen so far, S image side in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer

NamedParameters = Sequence[tuple[str, nn.Parameter]]
"""(name, parameter) pairs in a fixed order. Names: `head.*` for the head, `losses.<term>.*` for parameters of a loss term, peft's own
names (without `base_model.model.`) for the adapter. The backbone's own weights never appear: they are frozen."""

Schedule = Callable[[int, int], Sequence[float]]
"""(epoch of the session, step of the epoch) -> one learning rate per parameter group."""


class ImageDataset(Protocol):
    """What a session trains and tests on: a map-style data set of images.

    Item i is `{"image": PIL.Image.Image (RGB), "label": int, "index": int}`. `labels[i]` is the position of the class in order of arrival,
    `indices[i]` a sample id that is stable over runs and unique in its split. Both are known without decoding an image.
    """

    @property
    def labels(self) -> Sequence[int]: ...
    @property
    def indices(self) -> Sequence[int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, position: int) -> dict[str, Any]: ...


@runtime_checkable
class FromSource(Protocol):
    """A data set that is a part of a larger one. Equal `indices` of data sets of one source are the same picture."""

    @property
    def source(self) -> Any: ...


def source_of(dataset: ImageDataset) -> Any:
    """What the sample ids of `dataset` count in: its source, or itself."""
    return dataset.source if isinstance(dataset, FromSource) else dataset


@dataclass(frozen=True)
class Test:
    """One test set of a session and the classes that compete on it (positions; all seen classes by default)."""

    __test__ = False  # the name begins with "Test": pytest must not collect it

    name: str
    data: ImageDataset
    candidates: tuple[int, ...]
    own: tuple[int, ...] = ()
    """Positions among which task-aware accuracy chooses; (): the `own` classes of the session whose test it is."""


@dataclass(frozen=True)
class Session:
    """One step of a stream: new classes, or more images of those that are known. Session 0 is the base session."""

    id: int
    class_names: tuple[str, ...]
    """All classes seen so far, in order of arrival: the label of an image is its position here."""
    new_class_names: tuple[str, ...]
    """Those that it brings; () where it brings images of known classes alone."""
    train: ImageDataset
    tests: tuple[Test, ...]
    validation: ImageDataset | None = None
    """Images of the session that were held out of `train`; None where nothing is held out."""
    batch_size: int | None = None
    """Images per optimizer step of the run, over all processes: filled in by the loop before methods and hooks see the session."""
    exposed: Sequence[int] | None = None
    """Of an ordered session, which is one pass over `train` as it stands: how many classes have come by each image, [n]. None: its images
    are shuffled, in as many epochs as a method wants, and all its classes compete from its start."""
    joined: int = 0
    """How many images of a memory are shuffled in with `train`, by the loop; 0 where there is no memory, and where it has a `replay`."""
    joined_images: ImageDataset | None = None
    """`train`, and behind it what a memory has of earlier sessions: filled in when the session begins. None without a memory."""

    @property
    def first_new_class(self) -> int:
        """Position of the first class that the session brings; those before it were known."""
        return len(self.class_names) - len(self.new_class_names)

    @property
    def training_images(self) -> ImageDataset:
        """All that the session trains on: `train`, and behind it what a memory has of earlier sessions. Sample ids are unique in it."""
        return self.train if self.joined_images is None else self.joined_images

    @property
    def own(self) -> range:
        """Positions of the classes that the session teaches: the new ones; where it brings none, all so far."""
        return range(self.first_new_class if self.new_class_names else 0, len(self.class_names))

    def steps_per_epoch(self, batch_size: int | None = None) -> int:
        """Optimizer steps of one epoch over `train` and what is shuffled in with it; the last, smaller batch counts.

        `batch_size`: of a phase that has its own (`Phase.batch_size`); None: the run's.

        Raises ValueError where the session does not come from the loop, so that nobody has said how large a batch is.
        """
        size = batch_size or self.batch_size
        if size is None:
            raise ValueError(
                f"Session {self.id} has no batch_size yet; the loop fills it in. Outside of it: replace(session, batch_size=N)."
            )
        return math.ceil((len(self.train) + self.joined) / size)


class Scenario(Protocol):
    """The sessions in order, and the `protocol` entry of results.json that says how they were made.

    `hf_cl.scenarios.SessionStream` is one; a stream of your own needs no more than these members.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """By position: the classes of all sessions in order of arrival, then those that tests name and no session teaches."""
        ...

    @property
    def protocol(self) -> Mapping[str, Any]: ...
    def __iter__(self) -> Iterator[Session]: ...


@dataclass(frozen=True)
class Outputs:
    """What one forward pass of the model gives."""

    features: Tensor
    """[B, D] what the model's class feeds its classifier (ViT: CLS; Dinov2: CLS and patch mean; CLIP: patch mean; SigLIP: token mean)."""
    logits: Tensor
    """[B, C]; -inf where a class was not computed."""
    embedding: Tensor
    """[B, E] `head.embed(features)`: what contrastive losses, prototypes and statistics use. The features themselves by default."""
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    """[B, ...] each: what the adapter hands out of a forward, under the names it declares (`HeadedTuner.extras`)."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of a whole data set, in the data set's order, on every process."""

    features: Tensor  # [n, D]
    labels: Tensor  # [n]
    index: Tensor  # [n]


@dataclass(frozen=True)
class Context:
    """One batch as the loss terms see it."""

    batch: Mapping[str, Tensor]
    """`pixel_values` [B, 3, S, S] (absent in a features phase), `labels` [B], `index` [B] (stable sample ids). Where a memory has images:
    `replayed` [B] bool, those that are its, and `exemplar` [B], their positions in it, -1 for the session's own."""
    views: tuple[Outputs, ...]
    """One per augmented view that goes through the model: two where a loss of the phase needs "two_views", else one."""
    session: Session
    epoch: int
    """Epoch of the phase, from 0."""
    step: int
    """Optimizer step of the run, from 0."""
    frozen: Callable[..., Outputs]
    """`frozen(role, view=-1)`: the batch through another state of the same backbone; no gradient, eval mode, computed once per batch.
    Roles: "pretrained" (adapter off), "previous" (end of the last session), and those an adapter names in `roles`."""
    replayed_share: float = 0.0
    """Share of `replayed` images in the whole optimizer step, over all micro-batches and processes: what a mean over one kind alone has to
    be divided by, so that it does not depend on how the step is cut."""
    exposed: int | None = None
    """In an ordered session, how many classes have come by the end of this step: they are the first columns, and `logits[:, :exposed]` are
    those that compete. None elsewhere: all do."""

    @property
    def features(self) -> Tensor:
        return self.views[0].features

    @property
    def embedding(self) -> Tensor:
        return self.views[0].embedding

    @property
    def logits(self) -> Tensor:
        return self.views[0].logits

    @property
    def extras(self) -> Mapping[str, Tensor]:
        """What the adapter handed out of the first view; a loss names in `needs` what it reads."""
        return self.views[0].extras

    @property
    def labels(self) -> Tensor:
        return self.batch["labels"]


class Trainer(Protocol):
    """The members of the trainer that hooks may use, and nothing else of it; `hf_cl.training.services` says what each gives."""

    @property
    def model(self) -> nn.Module: ...  # the PeftModel
    @property
    def tuner(self) -> nn.Module: ...  # its BaseTuner
    @property
    def head(self) -> Head: ...
    @property
    def accelerator(self) -> Any: ...
    @property
    def generator(self) -> Any: ...  # torch.Generator on the CPU; the same draws on every process; checkpointed
    @property
    def seed(self) -> int: ...  # the run's; for draws that depend on nothing else, see generator_for
    @property
    def session(self) -> Session: ...
    @property
    def memory(self) -> Memory | None: ...  # the method's
    @property
    def named_parameters(self) -> NamedParameters: ...  # those of head, adapter and losses, as Method.optimizer gets them
    @property
    def losses(self) -> Mapping[str, LossTerm]: ...  # the session's, by name; to read only

    # In after_step
    @property
    def contexts(self) -> Sequence[Context]: ...
    @property
    def rates(self) -> Sequence[float]: ...
    @property
    def images_seen(self) -> int: ...
    @property
    def exposed(self) -> int: ...  # classes that have come: all of the session, less inside an ordered one
    @property
    def phase(self) -> Phase: ...  # the one that runs; from begin_epoch on

    # Services
    def features_of(self, dataset: ImageDataset, *, augment: bool = False, role: str | None = None) -> FeatureSet: ...
    def batches_of(self, dataset: ImageDataset, *, augment: bool = False) -> Iterator[Mapping[str, Tensor]]: ...
    def outputs_of(self, pixel_values: Tensor, *, role: str | None = None, autocast: bool = True) -> Outputs: ...
    def class_statistics(self, session: Session) -> Any: ...
    @property
    def statistics(self) -> Any: ...  # the store that it adds to, as it stands
    def validation_of(self, session: Session) -> ImageDataset | None: ...
    def generator_for(self, *key: int | str) -> Any: ...


class Part:
    """Base of everything the trainer calls. Every hook does nothing by default, so nobody asks whether it exists.

    A loss term is told of the sessions and phases that list it; one that must hear of all of them (to look at session 0 for a penalty that
    begins in session 1) stands in the method's `parts` too, and is called once. Everything else is told of everything.
    """

    statistics: frozenset[str] = frozenset()
    """What it reads of `trainer.class_statistics` beyond counts and means: "pooled", "diag", "low_rank", "full". The run's one store keeps
    what any head or part names; a class attribute or set in the constructor, since it is read before session 0 begins."""
    new_classes_only: str = ""
    """Why it cannot take part in a session without a new class, in a clause; empty where it can. Read before session 0 begins."""
    needs_first_session: str = ""
    """Why it must have seen session 0, so that no run with it starts from an adapter, in a clause; empty where it need not."""

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """After the head has grown, before the session's optimizer is made."""

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        """`epoch` counts from 0 in each phase."""

    def after_step(self, trainer: Trainer) -> None:
        """Once per optimizer step, after the update."""

    def before_statistics(self, trainer: Trainer, session: Session) -> None:
        """After the last phase, before any part's `end_session`: the place to move statistics of earlier classes, so that every head and
        part that reads them then finds them moved."""

    def end_session(self, trainer: Trainer, session: Session) -> None:
        """After the last phase, before the session's evaluation and checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values that a resumed run needs."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


class Memory(Part):
    """What of earlier sessions is trained on again: images, known by session and sample id, never as copies in memory.

    It hears of all sessions, after the head and before the losses, so that these find in `end_session` what it has chosen. Its `state_dict`
    is read before the first session of a resumed run is entered.
    """

    replay: int = 0
    """Images drawn beside every batch, over all processes; 0: all of them are shuffled in with the session's images."""

    def begin_run(self, sessions: Sequence[Session], *, resumed: bool) -> None:
        """Forget another run, and look at the sessions that will come. `resumed` where an earlier part of the run may have left files."""
        raise NotImplementedError(f"{type(self).__name__} does not implement begin_run")

    def sizes(self) -> Sequence[int]:
        """How many images it holds when each session begins; of those that have not come, as many as it will hold."""
        raise NotImplementedError(f"{type(self).__name__} does not implement sizes")

    def images(self, session: Session) -> ImageDataset | None:
        """What it holds for `session`, whose own images have other sample ids; None where it holds nothing."""
        raise NotImplementedError(f"{type(self).__name__} does not implement images")

    def draw(self, kept: int, key: Sequence[int]) -> Sequence[int]:
        """Positions among its `kept` images for one step, at most `replay`: a function of the key alone."""
        raise NotImplementedError(f"{type(self).__name__} does not implement draw")

    def words(self) -> str:
        """What it keeps, for the card: "20 exemplars a class"."""
        raise NotImplementedError(f"{type(self).__name__} does not implement words")

    def __len__(self) -> int:
        """Images it holds."""
        raise NotImplementedError(f"{type(self).__name__} does not implement __len__")


class LossTerm(Part):
    """One summand of the objective. A term with parameters of its own is an nn.Module too."""

    name: str
    weight: float | Callable[[int], float] = 1.0
    """A number, or a function of the phase's epoch."""
    first_session: int = 0
    """The first session it belongs in; `compose` leaves it out before. One that needs "previous" cannot begin before session 1."""
    needs: frozenset[str] = frozenset()
    """What the term reads beyond images and labels, checked for all sessions before the first one trains: "two_views" through the model,
    "frozen_view" (a second view for `ctx.frozen` alone), "pretrained", "previous" ("previous_if_any": from session 1 on), the adapter's own
    roles and extras, "all_classes" (it reads the columns of all classes so far), "own_classes" (it reads those of the session's own classes
    alone, so that no image may be of another), "own_images" (so does its pass over `session.train`, whatever a memory brings), "memory"."""

    def __call__(self, ctx: Context) -> Tensor:
        """A tensor without dimensions, the mean over the batch. Pure: a gradient rule may call it twice per batch. What it remembers of a
        batch is read from `trainer.contexts` in `after_step`."""
        raise NotImplementedError(f"{type(self).__name__} does not implement __call__")

    def weight_at(self, epoch: int) -> float:
        return self.weight(epoch) if callable(self.weight) else self.weight


class Head(nn.Module):
    """The model's classifier. It grows with the classes and travels in the adapter.

    A head that wants the trainer's hooks (`PrototypeHead` refits at `end_session`) is a `Part` too.
    State that inference does not need lives in non-persistent buffers: checkpointed, never saved with the adapter.
    """

    num_classes: int
    moves_with_statistics: bool = True
    """False where the head keeps sums in a space of its own: when features move, nothing can move them along."""
    fits: bool = False
    """Whether the head fits itself at the end of a session, so that it needs no phase to know the session's classes."""

    @property
    def own_temperature(self) -> float | None:
        """By what the head divides its logits itself; None where it does not, so that the run finds a temperature for it."""
        return None

    statistics: frozenset[str] = frozenset()
    """As `Part.statistics`."""
    new_classes_only: str = ""
    """As `Part.new_classes_only`."""

    def grow(self, class_names: Sequence[str]) -> None:
        """Append rows for `class_names`; old rows keep their values to the bit."""
        raise NotImplementedError(f"{type(self).__name__} does not implement grow")

    def write_texts(self, rows: Tensor, projection: Tensor | None) -> None:
        """Copy in what the class names say, after each growth: text embeddings [C, E] at unit length and the image tower's projection
        [E, D], or [C, K, E] and None where the head has fixed targets. Called where `hf_cl.backbones.reads_texts` is true of its spec."""
        raise NotImplementedError(f"{type(self).__name__} does not implement write_texts")

    def embed(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, E]. Identity by default."""
        return features

    def as_linear(self) -> nn.Linear | None:
        """A plain linear layer with the same logits for the same features, where there is one: what an export to a stock model needs."""
        return None

    def probabilities(self, logits: Tensor) -> Tensor:
        """[B, C] -> [B, C] what predictions show; the softmax, unless the head was trained under another normalisation."""
        return logits.softmax(-1)


class GradientRule(Part):
    """How an optimizer step's gradient comes about. One class per rule; settings in the constructor.

    A rule that only changes the plain gradient subclasses `hf_cl.rules.Plain` and writes `transform`.
    """

    def compute(
        self,
        closures: Sequence[Callable[[], dict[str, Tensor]]],
        named_parameters: NamedParameters,
        accelerator: Any,
        model: nn.Module,
    ) -> dict[str, Tensor]:
        """Leave the step's gradient in `p.grad` and return the named losses, detached.

        Called once per optimizer step with one closure per micro-batch. A closure runs its own forward and returns the named, weighted
        losses, already scaled so that their sum over the micro-batches (and mean over processes) is the loss of the global batch.
        State that a rule keeps must be the same on every process: hooks on the model see this process's images alone.
        A rule may run several passes; in each, `accelerator.no_sync(model)` surrounds forward AND backward of every micro-batch but the
        last, and every backward has its own forward. Augmentation and frozen results lie outside the closures.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement compute; with `transform` alone, subclass hf_cl.rules.Plain.")

    def record(self) -> dict[str, Any]:
        """What an adapter's config can record of the rule: `rule`, its name there, and its numbers by the config's fields. Empty where
        configs have no name for it."""
        return {}

    def transform(self, named_parameters: NamedParameters) -> None:
        """Change `p.grad` in place; called on unscaled gradients, before clipping."""


class Probe(Part):
    """Observes. Leaves RNG state and train/eval mode as it found them: weights with and without it are bitwise equal."""

    name: str

    def report(self) -> dict[str, Any]:
        """What JSON can hold, asked for at the end of each session: it goes to log.jsonl, to `probes` of results.json and to the report;
        single numbers also to `hf-cl compare`, as `name.key`."""
        return {}


@dataclass(frozen=True)
class Phase:
    """A stretch of a session with one objective and one set of trainable parameters."""

    name: str
    epochs: int
    losses: Sequence[LossTerm]
    trainable: Callable[[str], bool]
    """Parameter name -> does it train; the rest has requires_grad False, so its gradient is None and the optimizer skips it."""
    inputs: Literal["images", "features"] = "images"
    refresh: Literal["epoch", "phase"] = "epoch"
    """When the features of a features phase are computed again."""
    batch_size: int | None = None
    """Images per optimizer step, over all processes; None: the run's."""


@dataclass(frozen=True)
class Method:
    """A named composition: what is trained (adapter with its head), by which gradient, in which phases, with which optimizer."""

    name: str
    adapter: Any
    """A PeftConfig. Its `head` dict names the head, which injection builds (`trainer.head`); the trainer fills `class_names`."""
    phases: Callable[[Session], Sequence[Phase]]
    optimizer: Callable[[Session, NamedParameters], tuple[Optimizer, Schedule]]
    """Called once per session; the optimizer goes on over the session's phases. Here and in `phases`, `session.steps_per_epoch()` says how
    many steps an epoch takes, for what is counted in steps."""
    rule: GradientRule
    parts: Sequence[Part] = ()
    memory: Memory | None = None
    """What of earlier sessions is trained on again; None: nothing is kept (exemplar-free)."""
    max_grad_norm: float | None = None
    title: str = ""
    """The method's name in prose, for the card."""
    citation: str = ""
    """BibTeX of its paper, for the card."""


def is_head(name: str) -> bool:
    """`Phase.trainable` for phases that train the head alone."""
    return name.startswith("head.")


def everything(name: str) -> bool:
    """`Phase.trainable` for phases that train adapter, head and the losses' own parameters."""
    return True
