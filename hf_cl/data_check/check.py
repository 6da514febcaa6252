"""`hf-cl data`: what in a data set will spoil the numbers or the model, before anything trains. Reads pictures and changes nothing.

Shapes: n pictures, m test pictures, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from hf_cl.adapters.bases import OPEN_CLIP, family_of
from hf_cl.adapters.vocabulary import vocabulary_words
from hf_cl.backbones import load_backbone, load_tokenizer
from hf_cl.data_check.against import pictures_elsewhere
from hf_cl.data_check.features import Features, backbone_features
from hf_cl.data_check.labels import alike_classes, picture, session_difficulty, suspicious_labels
from hf_cl.data_check.near import HASH_BITS, QUANTILE, Hashes, StoredAgain, drawn, near_pairs, near_threshold, unit
from hf_cl.data_check.report import DataReport, Group, NearKey, Overlap, Part, by_harm
from hf_cl.errors import DataError
from hf_cl.heads.text import TextHeadSpec
from hf_cl.run import open_scenario
from hf_cl.run.first_checks import check_settings
from hf_cl.run.open import open_processor
from hf_cl.scenarios.catalog import Catalog, catalog
from hf_cl.scenarios.copies import find_copies
from hf_cl.settings import RunSettings
from hf_cl.training.accelerator import RunAccelerator
from hf_cl.training.pixel_store import open_store

CALIBRATED = 200
"""Training pictures that are stored again to learn the threshold."""
AMONG_THEMSELVES = 50_000
"""Training pictures among which near copies are looked for."""
WITH_TEXTS = ("clip_vision", "siglip_vision", OPEN_CLIP)
"""Families of which the image tower is looked through and whose base has a text tower too."""
SHOWN_CODES = 3
"""Class names that a remark shows."""


@dataclass(frozen=True)
class Options:
    """What is looked at. Raises ValueError for numbers that are none."""

    fast: bool = False
    """Exact copies alone: no model is run."""
    sample: int = 5000
    """Test pictures (of another data set: pictures) that near copies are looked for of."""
    foreign_limit: float = 0.005
    """Largest share of test pictures that may have a near copy of another class, by which the threshold is raised."""
    difficulty: bool = False
    """How many nats a method must bring to each session."""
    against: str | None = None
    """Another data set: how much of this one is in it."""

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise ValueError(f"sample must be at least 1, got {self.sample}.")
        if not 0 <= self.foreign_limit <= 1:
            raise ValueError(f"foreign_limit is a share, 0 to 1, got {self.foreign_limit}.")
        if self.fast and (self.difficulty or self.against):
            raise ValueError("fast looks at exact copies of this data set alone; leave out difficulty and against, or fast.")


@dataclass(frozen=True)
class Found:
    """A report, and the pictures it speaks of, for a page that shows them."""

    report: DataReport
    pictures: Catalog
    numbers: dict[tuple[Part, str], int]
    """(side, name) of the pictures that the report names -> their numbers."""

    def image(self, part: Part, name: str) -> Image.Image:
        """Decoded anew."""
        images, position = self.pictures.place(self.numbers[part, name])
        return images.decode(position)


def check_data(settings: RunSettings, options: Options, *, quiet: bool = True) -> Found:
    """Look at the data that the settings name, as the sessions that a run of these settings would have.

    Every picture is decoded once, and goes through the backbone once unless `options.fast`.

    Raises what `open_scenario` raises; DataError where all pictures are equal, which no data set's are.
    """
    settings, hashes = replace(settings, check_images="all"), Hashes()
    check_settings(settings)
    accelerator = RunAccelerator(settings)
    store = None if options.fast else open_store(open_processor(settings), settings, accelerator)
    scenario = open_scenario(settings, store, quiet=quiet, seen=None if options.fast else hashes.see)
    sessions, name = list(scenario), str(scenario.protocol["dataset"])
    pictures = catalog(sessions, scenario.class_names)
    if len(pictures) > 1 and len(np.unique(pictures.digests, axis=0)) == 1:
        raise DataError(f"{name}: all {len(pictures)} pictures are equal, pixel by pixel; what reads them, or wrote them, is broken.")
    exact = find_copies(pictures).groups
    if store is None:
        return _found(pictures, name, [(group, True) for group in exact])
    backbone = load_backbone(settings.backbone, revision=settings.backbone_revision)
    features = backbone_features(backbone, pictures.class_names, settings, accelerator, store)
    rows = np.concatenate([features(images) for images in pictures.sets])  # [n, D]
    key, pairs, sampled = _near(pictures, hashes, rows, features, options, settings.seed)
    groups = _grouped(exact, pairs, pictures)
    suspects, alone, penalty = suspicious_labels(pictures, rows)
    seen = [len(session.class_names) for session in sessions]
    report = {
        "backbone": settings.backbone,
        "near": key,
        "suspects": [suspect for _, suspect in suspects],
        "too_small": alone,
        "alike": alike_classes(pictures, rows),
        "sessions": session_difficulty(pictures, rows, seen, penalty, nats=options.difficulty),
        "remarks": [*_remarks(settings, pictures), *_codes(backbone, settings, pictures.class_names)],
    }
    if options.against is not None:
        report["against"] = pictures_elsewhere(options.against, options.sample, settings, pictures, hashes, rows, key, features, store)
    return _found(pictures, name, groups, [number for number, _ in suspects], sampled, report)


def _near(
    pictures: Catalog, hashes: Hashes, rows: NDArray[np.float32], features: Features, options: Options, seed: int
) -> tuple[NearKey, list[tuple[int, int]], NDArray[np.int64]]:
    """(how near copies are told, pairs of them, the test pictures that were looked at)."""
    codes = np.concatenate([hashes.of(images) for images in pictures.sets])  # [n]
    mean = rows[~pictures.tested].mean(0, dtype=np.float64)
    units = unit(rows, mean).astype(np.float32)  # [n, D]
    trained, draw = np.flatnonzero(~pictures.tested), np.random.default_rng(seed)
    tested = drawn(np.flatnonzero(pictures.tested), options.sample, draw)
    chosen = drawn(trained, CALIBRATED, draw)
    copies, again = _stored_again(pictures, chosen, features, mean)
    own = (units[chosen] * copies).sum(1)  # [200] cosine of each picture with itself, stored again
    above = float(np.quantile(own, QUANTILE))
    i, j, cosines = near_pairs((codes[tested], units[tested]), (codes[trained], units[trained]), above=above)
    i, j = tested[i], trained[j]
    equal = (pictures.digests[i] == pictures.digests[j]).all(1)
    other = ~equal & (pictures.labels[i] != pictures.labels[j])
    foreign = np.full(len(pictures), -1.0)
    np.maximum.at(foreign, i[other], cosines[other])
    calibrated, raised = near_threshold(own, foreign[tested], options.foreign_limit)
    recognised = (own > raised) & (np.bitwise_count(codes[chosen] ^ again) <= HASH_BITS)
    twins = float((foreign[tested] > raised).mean()) if len(tested) else 0.0
    key = NearKey(raised, calibrated, float(recognised.mean()), twins)
    if not key.tells:
        return key, [], tested
    some = drawn(trained, AMONG_THEMSELVES, draw)
    a, b, inside = near_pairs((codes[some], units[some]), above=raised)
    left, right = np.concatenate([i, some[a]]), np.concatenate([j, some[b]])
    near = np.concatenate([cosines > raised, inside > raised])
    return key, list(zip(left[near].tolist(), right[near].tolist(), strict=True)), tested


def _stored_again(
    pictures: Catalog, chosen: NDArray[np.int64], features: Features, mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.uint64]]:
    """Unit features and hashes of pictures that were stored again, in the order of `chosen`."""
    parts, codes = [], []
    for which in np.unique(pictures.set_of[chosen]).tolist():
        own = chosen[pictures.set_of[chosen] == which]
        again = StoredAgain(pictures.sets[which], [pictures.place(number)[1] for number in own.tolist()])
        parts.append(unit(features(again), mean))
        codes.append(again.hashes)
    return np.concatenate(parts), np.concatenate(codes)


def _grouped(exact: Iterable[tuple[int, ...]], pairs: Sequence[tuple[int, int]], pictures: Catalog) -> list[tuple[tuple[int, ...], bool]]:
    """Groups of equal pictures, and what near pairs join beyond them: pictures of one class, and apart from these, of several."""
    equal = list(exact)
    same = {number: group for group, numbers in enumerate(equal) for number in numbers}
    near = [(i, j) for i, j in pairs if i not in same or same[i] != same.get(j)]
    one_class = [(i, j) for i, j in near if pictures.labels[i] == pictures.labels[j]]
    several = [(i, j) for i, j in near if pictures.labels[i] != pictures.labels[j]]
    joined = [*one_class, *((group[0], other) for group in equal for other in group[1:])] if one_class else []
    touched = {number for pair in one_class for number in pair}
    groups = [group for group in _components(joined, len(pictures)) if touched & {*group}]
    return [(group, True) for group in equal] + [(group, False) for group in [*groups, *_components(several, len(pictures))]]


def _components(edges: Sequence[tuple[int, int]], count: int) -> list[tuple[int, ...]]:
    """What edges between `count` pictures join, in groups of two and more."""
    if not edges:
        return []
    ends = np.array(edges)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    order = np.flatnonzero(np.isin(component, component[ends.ravel()]))
    order = order[np.argsort(component[order], kind="stable")]
    return [tuple(piece.tolist()) for piece in np.split(order, np.flatnonzero(np.diff(component[order])) + 1)]


def _found(
    pictures: Catalog,
    dataset: str,
    groups: list[tuple[tuple[int, ...], bool]],
    suspects: Iterable[int] = (),
    sampled: NDArray[np.int64] | None = None,
    more: dict[str, Any] | None = None,
) -> Found:
    named = {number for numbers, _ in groups for number in numbers} | set(suspects)
    shown = {number: picture(pictures, number) for number in named}
    leaking, nearly = set[int](), set[int]()  # test pictures
    for numbers, exact in groups:
        if Group([shown[number] for number in numbers], exact).leaks:
            (leaking if exact else nearly).update(number for number in numbers if pictures.tested[number])
    looked = np.flatnonzero(pictures.tested) if sampled is None else sampled
    trained = np.bincount(pictures.labels[~pictures.tested], minlength=len(pictures.class_names))
    parts: tuple[Part, ...] = ("train", "validation", "test")
    sizes: dict[Part, int] = {
        part: sum(len(images) for images, own in zip(pictures.sets, pictures.parts, strict=True) if own == part) for part in parts
    }
    report = DataReport(
        dataset=dataset,
        counts={part: size for part, size in sizes.items() if size},
        training_pictures=dict(zip(pictures.class_names, trained.tolist(), strict=True)),
        groups=by_harm([Group([shown[number] for number in numbers], exact) for numbers, exact in groups]),
        leaked=len(leaking),
        nearly_leaked=len(nearly - leaking),
        overlap=Overlap.of(len((leaking | nearly) & set(looked.tolist())), len(looked)),
        **{"backbone": None, **(more or {})},
    )
    return Found(report, pictures, {(one.part, one.name): number for number, one in shown.items()})


def _remarks(settings: RunSettings, pictures: Catalog) -> list[str]:
    remarks = []
    if settings.backbone == "demo":
        remarks.append("Features of demo, a small model that ships with hf_cl; --backbone google/vit-base-patch16-224 sees more.")
    if (trained := int((~pictures.tested).sum())) > AMONG_THEMSELVES:
        remarks.append(f"Near copies inside of the training pictures were looked for among {AMONG_THEMSELVES} of {trained}.")
    return remarks


def _codes(backbone: nn.Module, settings: RunSettings, class_names: Sequence[str]) -> list[str]:
    """Of a base with a text tower: the classes whose names say nothing to it."""
    if family_of(backbone) not in WITH_TEXTS:
        return []
    try:
        vocabulary = vocabulary_words(load_tokenizer(settings.backbone, revision=settings.backbone_revision))
    except ValueError:  # a folder with the image tower alone has none, and whoever has no tokenizer trains without texts
        return []
    spec = TextHeadSpec(learned_words="auto")
    codes = [name for name in class_names if spec.wants_words(name, vocabulary)]
    if not codes:
        return []
    shown = ", ".join(map(repr, codes[:SHOWN_CODES])) + (", ..." if len(codes) > SHOWN_CODES else "")
    return [
        f"{len(codes)} of {len(class_names)} class names hold no word that the text tower of {settings.backbone} knows: {shown}. Under a "
        "text head they say nothing; --head '{type: text, learned_words: auto}' finds words for them (docs/learned_words.md)."
    ]
