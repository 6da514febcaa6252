"""Which labels are learned by heart.

Shapes: n training images, D feature width, C classes of the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import ImageDataset, Session, Trainer, is_head
from hf_cl.memory.leave_one_out import LeaveOneOut, suspicion
from hf_cl.metrics import memorisation_summary
from hf_cl.probes.each_epoch import EachEpoch
from hf_cl.probes.judged import logits_of, positions
from hf_cl.probes.subset import Subset

LISTED = 1000


class MemorizationProbe(EachEpoch):
    """Training accuracy on labels that looked wrong before the session, and on the others, after every epoch.

    After Doshi et al., "To grok or not to grok: Disentangling generalization and memorization on corrupted algorithmic datasets" (ICLR
    2024): wrong labels can only be memorised. Which labels look wrong is told by a ridge regression on features of the untouched backbone
    that predicts each image from the session's others (`hf_cl.memory.leave_one_out`), as `hf-cl data` does. Wrong labels are learned late,
    after what generalises; on clean data those that look wrong are merely hard. The report says "by heart" only where the probe `epochs`
    has seen validation fall meanwhile. (The paper's pruning of memorising neurons is not here: in an adapter the directions that memorise
    and those that generalise did not differ in size.)

    An image is `[sample id, label, suggested class, suspicion]`, classes as positions.

    Args:
        every: epochs between two looks; the last epoch is always looked at.
        images: training images that are looked at, evenly spread; suspects are sought among all.

    Raises ValueError for numbers below 1, and `begin_session` for a session with a class of one image, of which no other can say anything.
    """

    name = "memorization"

    def __init__(self, every: int = 1, images: int = 2000) -> None:
        super().__init__(every, images)
        self._suspected = torch.zeros(0, dtype=torch.bool)  # [n] of the images that are looked at
        self._found: list[list[Any]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        train, own = session.train, session.own
        labels = torch.as_tensor([int(label) for label in train.labels])  # [n]
        inside = (labels >= own.start) & (labels < own.stop)
        counts = torch.bincount(labels[inside] - own.start, minlength=len(own))
        if (counts == 1).any():
            name = session.class_names[own.start + int((counts == 1).nonzero()[0])]
            raise ValueError(
                f"The probe memorization asks a class's other images what a label should be, and {name!r} has one image in session "
                f"{session.id}; it needs two shots and more."
            )
        marked, self._found = self._suspects(trainer, train, labels, inside, own)
        chosen = [i for i in positions(len(labels), self.images) if inside[i]]
        self._data, self._suspected = Subset(train, chosen), marked[chosen]
        self._begun, self._trace = 0, {"measured": [], "suspect_accuracy": [], "other_accuracy": []}

    def _suspects(
        self, trainer: Trainer, train: ImageDataset, labels: Tensor, inside: Tensor, own: range
    ) -> tuple[Tensor, list[list[Any]]]:
        """Which images are suspected, [n], and the first of them as they are listed, those most in doubt first."""
        marked = torch.zeros(len(labels), dtype=torch.bool)
        if len(own) < 2 or int(inside.sum()) < 2:
            return marked, []
        adapted = any(not is_head(name) and not name.startswith("losses.") for name, _ in trainer.named_parameters)
        features = trainer.features_of(train, role="pretrained" if adapted else None).features.cpu()  # [n, D]
        fit = LeaveOneOut(features[inside], labels[inside] - own.start, len(own))
        values, others = suspicion(fit.scores(fit.penalty()), labels[inside] - own.start)
        marked[inside] = values > 0
        places = inside.nonzero()[:, 0]
        worst = [i for i in torch.argsort(values, descending=True, stable=True).tolist() if values[i] > 0][:LISTED]
        ids = [int(index) for index in train.indices]
        listed = [
            [ids[place], int(labels[place]), int(others[i]) + own.start, round(float(values[i]), 4)]
            for i, place in ((i, int(places[i])) for i in worst)
        ]
        return marked, listed

    def end_session(self, trainer: Trainer, session: Session) -> None:
        self._last_look(trainer, session)
        trace = self._trace
        found = memorisation_summary(trace["suspect_accuracy"], trace["other_accuracy"], trace["measured"])
        number = int(self._suspected.sum())
        self._sessions.append(
            {"session": session.id, "epochs": self._begun, "suspects": number, **trace, **found, "images": list(self._found)}
        )
        self._data = None

    def _look(self, trainer: Trainer, session: Session) -> None:
        if self._data is None or not self._suspected.any() or self._suspected.all():
            return
        logits, labels = logits_of(trainer, self._data)  # [n, C], [n]
        right = (logits[:, session.own.start : session.own.stop].argmax(1) + session.own.start == labels).double().cpu()  # [n]
        self._trace["measured"].append(self._begun - 1)
        self._trace["suspect_accuracy"].append(float(right[self._suspected].mean()))
        self._trace["other_accuracy"].append(float(right[~self._suspected].mean()))

    def report(self) -> dict[str, Any]:
        last = self._sessions[-1] if self._sessions else {}
        return {key: last.get(key) for key in ("suspects", "memorised", "memorised_from")} | {"sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "suspected": self._suspected, "found": self._found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The images that are looked at are those of `begin_session`, which has chosen them again."""
        super().load_state_dict(state)
        self._suspected, self._found = state["suspected"].cpu(), [*state["found"]]
