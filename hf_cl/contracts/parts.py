"""What the trainer calls, and what these may use of it in return. The trainer hands itself to every hook, so both stand in one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from hf_cl.contracts.data import ImageDataset, Session
from hf_cl.contracts.forward import Context, FeatureSet, Outputs
from hf_cl.contracts.head import Head

NamedParameters = Sequence[tuple[str, nn.Parameter]]
"""(name, parameter) pairs in a fixed order. Names: `head.*` for the head, `losses.<term>.*` for parameters of a loss term, peft's own
names (without `base_model.model.`) for the adapter. The backbone's own weights never appear: they are frozen."""


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
    name: str = ""
    """Under which its report stands; a loss and a probe need one."""

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

    def report(self) -> dict[str, Any]:
        """What JSON can hold, asked for at the end of each session: it goes to log.jsonl, to `probes` of results.json and to the report;
        single numbers also to `hf-cl compare`, as `name.key`."""
        return {}

    def adapter_files(self) -> Mapping[str, bytes]:
        """Name -> content of files that go beside the adapter after each session, and are pushed with it: what whoever loads it may want
        and no weight holds. peft does not look at them. Asked for on the main process alone."""
        return {}

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

    holds: Literal["images", "features"] = "images"
    """"features": what it gives for a session are rows of features, and it is for features phases alone (`hf_cl.memory.kept_features`)."""
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
    updates_per_batch: int = 1
    """Optimizer steps on each batch before the next one comes, on the same augmented images: what online streams, in which each image comes
    once, make up for it by. Epochs, rates and positions count the steps."""
