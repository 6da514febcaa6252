"""Labels that look wrong, classes that will be confused, and how hard each session is: one ridge regression on frozen features.

Shapes: n pictures, D feature width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hf_cl.data_check.difficulty import MOST, random_error
from hf_cl.data_check.report import Alike, Picture, SessionDifficulty, Suspect
from hf_cl.memory.leave_one_out import LeaveOneOut, suspicion
from hf_cl.scenarios.catalog import Catalog

SHARE = 0.05
"""Of a session's pictures, at most so many are listed."""
NEIGHBOURS = 5
"""Classes named for each one."""

Rows = NDArray[np.floating]


def picture(pictures: Catalog, number: int) -> Picture:
    """A picture of the catalog as a report names it."""
    label = pictures.class_names[int(pictures.labels[number])]
    return Picture(pictures.name(number), pictures.part(number), int(pictures.session[number]), label)


def suspicious_labels(pictures: Catalog, features: Rows) -> tuple[list[tuple[int, Suspect]], list[str], float]:
    """(number and finding of each suspect, worst first; classes of one picture; the penalty in units of the scatter's mean eigenvalue).

    Every picture, tested or trained on, is judged by all others among all classes of the stream: whoever looks at the labels has all of
    them at hand, and a picture of session 0 may belong to a class of session 3.
    """
    counts = np.bincount(pictures.labels, minlength=len(pictures.class_names))
    enough = counts[pictures.labels] > 1  # [n]
    alone = [pictures.class_names[label] for label in np.flatnonzero(counts == 1).tolist()]
    labels = torch.from_numpy(pictures.labels)
    fit = LeaveOneOut(torch.from_numpy(features), labels, len(pictures.class_names))
    lam = fit.penalty()
    scores = fit.scores(lam)  # [n, C]
    scores[:, torch.from_numpy(counts == 0)] = -torch.inf
    found, others = suspicion(scores, labels)  # [n], [n]
    suspects: list[tuple[int, Suspect]] = []
    for session in np.unique(pictures.session).tolist():
        own = np.flatnonzero((pictures.session == session) & enough)
        worst = own[np.argsort(-found.numpy()[own], kind="stable")][: max(1, round(SHARE * len(own)))]
        for number in worst.tolist():
            if found[number] > 0:
                suggested = pictures.class_names[int(others[number])]
                suspects.append((number, Suspect(picture(pictures, number), suggested, float(found[number]))))
    return sorted(suspects, key=lambda pair: -pair[1].suspicion), alone, lam / fit.scale


def alike_classes(pictures: Catalog, features: Rows) -> list[Alike]:
    """Each class with its nearest ones, by the cosine of their means around the mean of all classes; most alike first, each pair once."""
    present = np.unique(pictures.labels)
    if len(present) < 3:
        return []  # two means lie opposite each other around their own mean, whatever they are
    means = np.stack([features[pictures.labels == label].mean(0, dtype=np.float64) for label in present])  # [C, D]
    centred = means - means.mean(0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosines = centred @ centred.T
    np.fill_diagonal(cosines, -np.inf)
    sessions = [int(pictures.session[pictures.labels == label].min()) for label in present]
    pairs: dict[tuple[int, int], float] = {}
    for i in range(len(present)):
        for j in np.argsort(-cosines[i], kind="stable")[: min(NEIGHBOURS, len(present) - 1)].tolist():
            pairs[min(i, j), max(i, j)] = float(cosines[i, j])
    names = [pictures.class_names[label] for label in present]
    ordered = sorted(pairs.items(), key=lambda pair: -pair[1])
    return [Alike(names[i], names[j], cosine, (sessions[i], sessions[j])) for (i, j), cosine in ordered if cosine > 0]


def session_difficulty(
    pictures: Catalog, features: Rows, classes: Sequence[int], penalty: float, *, nats: bool = False
) -> list[SessionDifficulty]:
    """How many of a session's pictures all that came until then name right, itself left out, among the classes known by then.

    Args:
        pictures, features: of the whole stream, [n] and [n, D].
        classes: known after each session.
        penalty: in units of the scatter's mean eigenvalue.
        nats: also how much a method must bring, by the session's test pictures.
    """
    found: list[SessionDifficulty] = []
    for session, known in enumerate(classes):
        new = known - (classes[session - 1] if session else 0)
        come = np.flatnonzero((pictures.session <= session) & (pictures.labels < known))
        own = np.flatnonzero(pictures.session[come] == session)
        if known < 2 or len(own) < 2:
            found.append(SessionDifficulty(session, new, known, len(own), None))
            continue
        labels = torch.from_numpy(pictures.labels[come])
        fit = LeaveOneOut(torch.from_numpy(features[come]), labels, known)
        among = torch.from_numpy(own)
        right = fit.scores(penalty * fit.scale, among).argmax(1) == labels[among]
        needed = _nats(pictures, features, come, session, known, penalty) if nats else None
        found.append(SessionDifficulty(session, new, known, len(own), float(right.double().mean()), needed))
    return found


def _nats(pictures: Catalog, features: Rows, come: NDArray[np.int64], session: int, known: int, penalty: float) -> float | None:
    """By the ridge head's error on the session's test pictures; None without any."""
    tested = _spread(come[pictures.tested[come] & (pictures.session[come] == session)], MOST)
    trained = _spread(come[~pictures.tested[come]], 4 * MOST)
    if not len(tested) or len(trained) < 2:
        return None
    scale = features[trained].std(0, dtype=np.float64)
    rows = (features - features[trained].mean(0, dtype=np.float64))[:, scale > 0] / scale[scale > 0]
    labels = pictures.labels
    fit = LeaveOneOut(torch.from_numpy(rows[trained]), torch.from_numpy(labels[trained]), known)
    predicted = fit.predict(torch.from_numpy(rows[tested]), penalty * fit.scale).numpy()  # [m, C]
    error = float(((predicted - np.eye(known)[labels[tested]]) ** 2).mean())
    return random_error(rows[trained], labels[trained], rows[tested], labels[tested], known).nats(error)


def _spread(numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of them, evenly spread over their order."""
    return numbers if len(numbers) <= most else numbers[np.linspace(0, len(numbers) - 1, most).astype(np.int64)]
