"""What `hf-cl data` found, in names and numbers: data.json, and what table and page are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy.stats import beta

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Picture:
    """One picture of the data."""

    name: str
    """File name, or split and row."""
    part: Part
    session: int
    label: str
    """The class it stands under."""


@dataclass(frozen=True)
class Group:
    """Pictures that are one."""

    pictures: list[Picture]
    exact: bool
    """Equal pixel by pixel; else nearly the same."""

    @property
    def leaks(self) -> bool:
        """Whether it is tested on and trained on. What is only nearly the same under several labels may be two things that look alike."""
        both = {picture.part == "test" for picture in self.pictures} == {True, False}
        return both and (self.exact or not self.two_labels)

    @property
    def two_labels(self) -> bool:
        return len({picture.label for picture in self.pictures}) > 1


@dataclass(frozen=True)
class Overlap:
    """A share of pictures that stand elsewhere too."""

    found: int
    looked: int
    share: float
    interval: tuple[float, float]
    """95 %, Clopper and Pearson (Biometrika 1934)."""

    @staticmethod
    def of(found: int, looked: int) -> Overlap | None:
        """None where nothing was looked at."""
        return Overlap(found, looked, found / looked, share_interval(found, looked)) if looked else None


def share_interval(found: int, looked: int) -> tuple[float, float]:
    """The 95 % interval of a share of which `found` of `looked` were met."""
    low = 0.0 if found == 0 else float(beta.ppf(0.025, found, looked - found + 1))
    high = 1.0 if found == looked else float(beta.ppf(0.975, found + 1, looked - found))
    return low, high


@dataclass(frozen=True)
class NearKey:
    """How near copies were told."""

    threshold: float
    """Two pictures are nearly one where their features' cosine is above it and their hashes differ in at most 8 bits."""
    calibrated: float
    """The threshold before pictures of other classes raised it."""
    recognised: float
    """Share of the data's own pictures that are still recognised when they are stored again (JPEG 60 at three quarters of the size)."""
    foreign: float
    """Share of test pictures with a near copy of another class: false alarms, or wrong labels."""

    @property
    def tells(self) -> bool:
        """Whether near copies are listed at all."""
        return self.recognised >= 0.5


@dataclass(frozen=True)
class Suspect:
    """A label that looks wrong to all other pictures."""

    picture: Picture
    suggested: str
    suspicion: float
    """By how much the suggested class is preferred, in units of a one-hot label."""


@dataclass(frozen=True)
class Alike:
    """Two classes that will be confused."""

    first: str
    second: str
    cosine: float
    """Of their means, around the mean of all."""
    sessions: tuple[int, int]


@dataclass(frozen=True)
class SessionDifficulty:
    """How hard a session is for a linear head on this backbone."""

    session: int
    new_classes: int
    known_classes: int
    pictures: int
    accuracy: float | None
    """Share of its pictures that the others name right, among all classes known by then; None where there are too few to say."""
    nats: float | None = None
    """What a method must bring beyond features and labels (`hf_cl.data_check.difficulty`), where it was asked for."""


@dataclass(frozen=True)
class Against:
    """What of the data is in another data set too."""

    dataset: str
    overlap: Overlap
    pairs: list[tuple[str, str]]
    """(here, there), the first ones."""


@dataclass(frozen=True)
class DataReport:
    """All that was found."""

    dataset: str
    backbone: str | None
    """Whose features were looked at; None where only exact copies were."""
    counts: dict[Part, int]
    training_pictures: dict[str, int]
    """Of each class; those held out for validation count."""
    groups: list[Group] = field(default_factory=list)
    """Leaks first, then pictures under two labels, then what is repeated."""
    leaked: int = 0
    """Test pictures that are also trained on, pixel by pixel."""
    nearly_leaked: int = 0
    """Further ones that are nearly the same as a training picture of their class."""
    overlap: Overlap | None = None
    """Both as a share of the test pictures that were looked at."""
    near: NearKey | None = None
    suspects: list[Suspect] = field(default_factory=list)
    too_small: list[str] = field(default_factory=list)
    """Classes of one picture, of which no other can say anything."""
    alike: list[Alike] = field(default_factory=list)
    sessions: list[SessionDifficulty] = field(default_factory=list)
    against: Against | None = None
    remarks: list[str] = field(default_factory=list)

    @property
    def classes(self) -> int:
        return len(self.training_pictures)

    @property
    def two_labels(self) -> int:
        """Pictures, equal pixel by pixel, under several labels."""
        return sum(group.exact and group.two_labels for group in self.groups)

    @property
    def repeated(self) -> int:
        """Training pictures beyond the first of each group of equal ones."""
        trained = (sum(picture.part != "test" for picture in group.pictures) for group in self.groups if group.exact)
        return sum(max(0, count - 1) for count in trained)


def summary(report: DataReport) -> list[str]:
    """The findings in sentences, most harmful first."""
    tested = report.counts.get("test", 0)
    sentences: list[str] = []
    if not tested:
        sentences.append("There are no test pictures, so nothing can leak into them.")
    elif report.leaked or report.nearly_leaked:
        near = f", {report.nearly_leaked} nearly (look at them: small pictures may only be alike)" if report.near is not None else ""
        are = "is" if report.leaked == 1 else "are"
        sentences.append(
            f"Leaks: of {tested} test pictures {report.leaked} {are} also trained on, pixel by pixel{near}. Accuracy on them says nothing "
            "of new pictures."
        )
    else:
        sentences.append(f"No test picture of {tested} is also trained on.")
    if report.overlap is not None and report.overlap.looked < tested:
        low, high = report.overlap.interval
        sentences.append(f"Looked at {report.overlap.looked} test pictures: the share is {_points(low)} to {_points(high)} % (95 %).")
    if report.two_labels:
        sentences.append(f"{_some(report.two_labels, 'picture')} under several labels, pixel by pixel.")
    if report.repeated:
        sentences.append(f"{_some(report.repeated, 'training picture')} that repeat{'s' * (report.repeated == 1)} another one.")
    sentences += _near_sentences(report)
    if report.suspects:
        sentences.append(
            f"{_some(len(report.suspects), 'label')} to look at: all others say another class. On clean data these are hard pictures."
        )
    if report.too_small:
        sentences.append(f"{_some(len(report.too_small), 'class', 'classes')} of one picture, of which nothing else could be said.")
    if report.against is not None:
        found, (low, high) = report.against.overlap, report.against.overlap.interval
        sentences.append(
            f"{found.found} of {found.looked} pictures are in {report.against.dataset} too: {_points(found.share)} % "
            f"({_points(low)} to {_points(high)} %)."
        )
    return [*sentences, *report.remarks]


def _near_sentences(report: DataReport) -> list[str]:
    if report.near is None:
        return []
    share = round(100 * report.near.recognised)
    if not report.near.tells:
        return [f"Near copies cannot be told here: only {share} % of the pictures would be recognised when they are stored again."]
    return [
        f"Near copies: {share} % of the pictures would be recognised when they are stored again; mirrored and strongly cut ones are not."
    ]


def _some(number: int, thing: str, several: str | None = None) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {several or f'{thing}s'}"


def _points(share: float) -> str:
    return f"{100 * share:.3g}"


def left_out(report: DataReport) -> list[tuple[Picture, str]]:
    """What to leave out, and why, so that no test picture is trained on, no picture counts twice and none stands under two labels.

    Of equal pictures one stays, a test picture where there is one; none where the labels differ. Of nearly equal ones the training pictures
    go where one is tested on, and stay otherwise. No class loses its last training picture: there the test pictures go.
    """
    gone: dict[str, tuple[Picture, str]] = {}
    left = dict(report.training_pictures)
    for group in report.groups:
        leave = [pair for pair in _to_leave(group) if pair[0].name not in gone]
        trained = Counter(picture.label for picture, _ in leave if picture.part != "test")
        if any(left[label] <= count for label, count in trained.items()):
            first = next(picture for picture in group.pictures if picture.part != "test")
            tested = [picture for picture in group.pictures if picture.part == "test"]
            leave = [(picture, f"trained on as {first.name}") for picture in tested if picture.name not in gone]
        for picture, why in leave:
            gone[picture.name] = picture, why
            left[picture.label] -= picture.part != "test"
    return list(gone.values())


def _to_leave(group: Group) -> list[tuple[Picture, str]]:
    first = next((picture for picture in group.pictures if picture.part == "test"), group.pictures[0])
    if group.exact and group.two_labels:
        labels = " and ".join(sorted({picture.label for picture in group.pictures}))
        return [(picture, f"stands under {labels}") for picture in group.pictures]
    if group.exact:
        return [(picture, f"the same as {first.name}") for picture in group.pictures if picture is not first]
    if group.leaks:
        return [(picture, f"nearly the same as {first.name}") for picture in group.pictures if picture.part != "test"]
    return []


def by_harm(groups: Sequence[Group]) -> list[Group]:
    """Leaks first, then pictures under several labels, equal ones before near ones."""
    return sorted(groups, key=lambda group: (not group.leaks, not group.two_labels, not group.exact))
