"""Images of earlier sessions, to be trained on again.

Letters: n images of a class, k images kept of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_cl.contracts import ImageDataset, Memory, Session, Trainer, domains_of, source_of
from hf_cl.errors import first_ten
from hf_cl.memory.choosing import CHOICES, Choose, drawn, herding, priorities, shuffled
from hf_cl.memory.exemplar_places import Exemplar, Finder, Recognisable
from hf_cl.memory.kept_images import Kept, KeptImages, KeptOfOneSource

PER_CLASS = 20
FOREIGN = 1 << 40
"""Sample ids from here on are those of exemplars that lie in another data set than the session's images."""


class Exemplars(Memory):
    """Some images of each earlier session, known by session and sample id: the pictures stay where the data are.

    A class that comes again in another session, as in domain-incremental streams, is kept of once more, so a quota is per class and
    session. With `total` it is shared by all, and what is too much of earlier ones is given up from the end of their list.

    Args:
        per_class: images kept of each class of a session; None: 20, unless `total` is given.
        total: images kept of all sessions together.
        choose: "herding" (iCaRL: those whose mean is nearest to the class's mean, in the features as the head embeds them), "random", or
            "reservoir" (a uniform sample of all images that came, whatever their class; needs `total`).
        replay: images drawn beside every batch, over all processes; 0: all are shuffled in with the session's images.
        folder: where copies of the pictures are written (PNG, without loss), for data that will be gone; read where an original is.

    Raises ValueError for numbers below 1, `per_class` beside `total`, an unknown choice, and a reservoir without `total`.
    """

    def __init__(
        self,
        per_class: int | None = None,
        total: int | None = None,
        choose: Choose = "herding",
        replay: int = 0,
        *,
        folder: str | None = None,
    ) -> None:
        if choose not in CHOICES:
            raise ValueError(f"Exemplars: choose must be one of {', '.join(CHOICES)}, got {choose!r}.")
        if per_class is not None and total is not None:
            raise ValueError("Exemplars: give per_class or total, not both.")
        if choose == "reservoir" and total is None:
            raise ValueError("Exemplars: a reservoir is one sample of all images, so it needs total, such as total: 200.")
        for name, value, low in (("per_class", per_class, 1), ("total", total, 1), ("replay", replay, 0)):
            if value is not None and value < low:
                raise ValueError(f"Exemplars: {name} must be at least {low}, got {value}.")
        self.per_class = PER_CLASS if per_class is None and total is None else per_class
        self.total, self.choose, self.replay = total, choose, replay
        self._folder = None if folder is None else Path(folder)
        self._sessions: Sequence[Session] = ()
        self._kept: list[Exemplar] = []
        self._found: dict[int, int] = {}  # number -> position in its session's images; none where the picture is read from the folder
        self._next = self._ended = 0

    # What the loop asks
    def begin_run(self, sessions: Sequence[Session], *, resumed: bool) -> None:
        """As in the contract. Raises ValueError for a total below the number of classes, and for a folder that holds something."""
        self._sessions, self._kept, self._found, self._next, self._ended = tuple(sessions), [], {}, 0, 0
        groups = sum(len(_groups(session.train)) for session in self._sessions)
        if self.total is not None and self.choose != "reservoir" and self.total < groups:
            raise ValueError(
                f"Exemplars: total {self.total} leaves less than one image for each of the {groups} classes that come (a class that comes "
                "in several sessions counts in each). Raise it, or choose: reservoir."
            )
        if self._folder is not None and not resumed and self._folder.is_dir() and any(self._folder.iterdir()):
            raise ValueError(f"memory_dir {self._folder} is not empty, and this run begins anew: give it a folder of its own.")

    def sizes(self) -> list[int]:
        held: dict[tuple[int, int], int] = defaultdict(int)
        sizes: list[int] = []
        for number, session in enumerate(self._sessions):
            if number == self._ended:  # what was really kept: data may have changed since
                held = defaultdict(int)
                for exemplar in self._kept:
                    held[exemplar.session, exemplar.label] += 1
            sizes.append(sum(held.values()))
            held |= {(number, label): count for label, count in _groups(session.train).items()}
            if self.choose == "reservoir" and self.total is not None:
                held = defaultdict(int, {(-1, -1): min(self.total, sum(held.values()))})
            else:
                quota = self._quota(len(held))
                held = defaultdict(int, {group: min(quota, count) for group, count in held.items()})
        return sizes

    def images(self, session: Session) -> ImageDataset | None:
        if not self._kept:
            return None
        source, own = source_of(session.train), set(np.asarray(session.train.indices).tolist())
        entries = [self._entry(exemplar, source, own) for exemplar in self._kept]
        if all(entry.index < FOREIGN for entry in entries):
            return KeptOfOneSource(entries, source)
        return KeptImages(entries)

    def draw(self, kept: int, key: Sequence[int]) -> list[int]:
        return drawn(kept, self.replay, ["replay", *key])

    def words(self) -> str:
        kept = f"{self.per_class} exemplars a class" if self.total is None else f"{self.total} exemplars in all"
        return f"{kept} ({self.choose})"

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept(self) -> Sequence[Exemplar]:
        """In the order of `images`."""
        return tuple(self._kept)

    # Choosing
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Choose of the session's images, and give up what is too much."""
        before = {exemplar.number for exemplar in self._kept}
        chosen = self._chosen(trainer, session) if len(session.train) else ()  # none where a run goes on from an adapter
        positions = [position for some in chosen for position in some]
        for position in positions:
            self._keep(session, position)
        self._shrink(trainer)
        self._ended = session.id + 1
        self._write(trainer, before)

    def _chosen(self, trainer: Trainer, session: Session) -> Iterator[list[int]]:
        """Positions among the session's images, class by class, the first to stay first."""
        labels = np.asarray(session.train.labels)
        features = self._features(trainer, session) if self.choose == "herding" else None
        groups = _groups(session.train)
        quota = self._quota(len(groups) + len({(e.session, e.label) for e in self._kept}))
        for label in groups:
            mine = np.flatnonzero(labels == label)
            if features is not None:
                chosen = _as_on_rank_0(herding(features[torch.from_numpy(mine)], quota))
            elif self.choose == "random":
                chosen = shuffled(len(mine), ["exemplars", trainer.seed, session.id, label])[:quota]
            else:
                chosen = list(range(len(mine)))
            yield mine[chosen].tolist()

    def _features(self, trainer: Trainer, session: Session) -> torch.Tensor:
        with torch.no_grad():
            return trainer.head.embed(trainer.features_of(session.train).features).cpu()  # [n, D]

    def _quota(self, groups: int) -> int:
        if self.total is None:
            assert self.per_class is not None
            return self.per_class
        return self.total // max(groups, 1)

    def _keep(self, session: Session, position: int) -> None:
        images = session.train
        known = isinstance(images, Recognisable)
        index = int(images.indices[position])
        name = images.describe(position) if known else f"sample {index}"
        content = images.content_hash(position) if known and self.choose != "reservoir" else ""
        self._kept.append(Exemplar(self._next, session.id, int(images.labels[position]), index, name, content))
        self._found[self._next] = position
        self._next += 1

    def _shrink(self, trainer: Trainer) -> None:
        if self.total is None:
            return
        if self.choose == "reservoir":
            first = self._first_of_reservoir(trainer.seed)
            self._kept = [self._with_content(exemplar) for exemplar in self._kept if exemplar.number in first]
        else:
            groups: dict[tuple[int, int], list[Exemplar]] = defaultdict(list)
            for exemplar in self._kept:
                groups[exemplar.session, exemplar.label].append(exemplar)
            quota = self._quota(len(groups))
            self._kept = [exemplar for group in groups.values() for exemplar in group[:quota]]
        self._found = {exemplar.number: self._found[exemplar.number] for exemplar in self._kept if exemplar.number in self._found}

    def _first_of_reservoir(self, seed: int) -> set[int]:
        """Numbers of the exemplars that stay."""
        by_session: dict[int, list[Exemplar]] = defaultdict(list)
        for exemplar in self._kept:
            by_session[exemplar.session].append(exemplar)
        ranked = [
            (priority, exemplar.number)
            for number, some in by_session.items()
            for priority, exemplar in zip(priorities([e.index for e in some], ["reservoir", seed, number]), some, strict=True)
        ]
        return {number for _, number in sorted(ranked)[: self.total]}

    def _with_content(self, exemplar: Exemplar) -> Exemplar:
        """With the hash of its bytes, which is not asked for of images that the reservoir leaves out."""
        images, position = self._sessions[exemplar.session].train, self._found.get(exemplar.number)
        if exemplar.content or position is None or not isinstance(images, Recognisable):
            return exemplar
        return replace(exemplar, content=images.content_hash(position))

    # The pictures
    def _entry(self, exemplar: Exemplar, source: Any, own: set[int]) -> Kept:
        images, position = self._sessions[exemplar.session].train, self._found.get(exemplar.number)
        if position is None:
            return Kept(exemplar.label, FOREIGN + exemplar.number, self._file(exemplar), None)
        index = int(images.indices[position])
        shared = source_of(images) is source and index not in own
        domains = domains_of(images)
        domain = None if domains is None else int(domains[position])
        return Kept(exemplar.label, index if shared else FOREIGN + exemplar.number, images, position, domain)

    def _file(self, exemplar: Exemplar) -> Path:
        assert self._folder is not None
        return self._folder / f"{exemplar.number:06d}.png"

    def _write(self, trainer: Trainer, before: set[int]) -> None:
        """Copies of new exemplars; those of given up ones go a session later, since a resume may stand before this one's end."""
        if self._folder is None:
            return
        if trainer.accelerator.is_main_process:
            self._folder.mkdir(parents=True, exist_ok=True)
            wanted = {f"{number:06d}.png" for number in before}
            for exemplar in self._kept:
                path = self._file(exemplar)
                wanted.add(path.name)
                if exemplar.number in self._found and exemplar.number not in before:
                    image = self._sessions[exemplar.session].train[self._found[exemplar.number]]["image"]
                    image.save(path.with_suffix(".part"), format="PNG")
                    path.with_suffix(".part").replace(path)
            for path in self._folder.glob("*.png"):
                if path.name not in wanted:
                    path.unlink()
        trainer.accelerator.wait_for_everyone()

    # Resuming
    def state_dict(self) -> dict[str, Any]:
        return {"ended": self._ended, "next": self._next, "kept": [list(astuple(exemplar)) for exemplar in self._kept]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """After `begin_run`. Raises ValueError naming exemplars whose pictures are gone."""
        self._ended, self._next = int(state["ended"]), int(state["next"])
        self._kept = [Exemplar(*values) for values in state["kept"]]
        finder = Finder(self._sessions)
        places = {exemplar.number: finder.position(exemplar) for exemplar in self._kept}
        self._found = {number: place for number, place in places.items() if place is not None}
        gone = [e for e in self._kept if e.number not in self._found and not (self._folder and self._file(e).is_file())]
        if gone:
            names = first_ten(f"{e.name} (class {self._sessions[e.session].class_names[e.label]}, session {e.session})" for e in gone)
            raise ValueError(
                f"{len(gone)} of the {len(self._kept)} exemplars that the run trains on again are gone: {names}. Put the pictures back; "
                "a run that is to go on without them keeps copies from its beginning, by --memory_dir FOLDER."
            )


def _groups(images: ImageDataset) -> dict[int, int]:
    """Class -> images of it."""
    labels, counts = np.unique(np.asarray(images.labels, dtype=np.int64), return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _as_on_rank_0(chosen: list[int]) -> list[int]:
    """The first process's choice: features may be rounded otherwise on another machine."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1):
        return chosen
    box: list[Any] = [chosen]
    torch.distributed.broadcast_object_list(box, 0)
    return box[0]
