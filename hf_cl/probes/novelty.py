""" "None of these": how well a run tells pictures of classes that it does not know, and the score that goes along with its adapter.

Shapes: n images, D width of the features as the head embeds them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hf_cl.contracts import FeatureSet, Probe, Session, Trainer
from hf_cl.heads.fitted import own_rows
from hf_cl.heads.held_back import held_back
from hf_cl.hints import nearest
from hf_cl.memory.novelty import KINDS, NOVELTY_FILE, STATISTICS, Kind, NoveltyScore, fitted_score
from hf_cl.probes.judged import evenly


class Novelty(Probe):
    """A novelty score, with a threshold from pictures that were held out, and how well it does on classes before they are taught.

    Whoever meets a class that nobody has taught wants to hear so. When a session ends, a score is fitted to the classes so far, and
    `quantile` of known pictures may be called unknown: validation images where there are some, else the fifth of the session's training
    pictures that heads which fit themselves hold back, judged by a score that has not seen them. Pictures of earlier classes are gone, so
    each session keeps its own number, and the largest is the threshold. The score lies beside the adapter, and `hf-cl predict --unknown`
    uses it.

    In every session but the first, the test images of its new classes are real unknowns with labels, until they are taught: `auroc` is how
    often one of them is scored above a known test image, `caught_at_95` the share of them above 95 % of these; `known_rejected` and
    `unknown_rejected` are the shares that the threshold rejects. An adapter that trains on moves what the score of earlier classes was
    fitted to; a drift map moves it along.

    Args:
        kind: "prototype", "mahalanobis", "energy" or "prior" (`hf_cl.memory.novelty`); under a text head too, on the
            embeddings of images. "prior" has been
            measured below "prototype" and costs some seconds a session: it is there to compare with.
        quantile: share of known pictures that may be called unknown.
        images: at most so many test images of known, and of new classes, spread evenly.

    Raises ValueError for an unknown kind and numbers out of range; in `begin_session` for "energy" without validation images.
    """

    name = "novelty"

    def __init__(self, kind: Kind = "prototype", quantile: float = 0.05, images: int = 2000) -> None:
        if kind not in KINDS:
            raise ValueError(f"Novelty: kind is {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}.{nearest(kind, KINDS)}")
        if not 0 < quantile < 1 or images < 1:
            raise ValueError(f"Novelty: quantile lies between 0 and 1 and images is at least 1, got {quantile} and {images}.")
        self.kind: Kind = kind
        self.quantile, self.images = quantile, images
        self.statistics = STATISTICS.get(kind, frozenset())
        self._score: NoveltyScore | None = None
        self._thresholds: list[float] = []
        self._known = torch.zeros(0)
        self._sessions: list[dict[str, Any]] = []

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """Look at the test images of classes that are about to be taught."""
        if self.kind == "energy" and trainer.validation_of(session) is None:
            raise ValueError("A threshold of the energy is found on images that were held out: say --validation_fraction 0.1.")
        if self._score is None or not session.new_class_names or not len(session.tests[-1].data):
            return  # after a resume inside a session what was found comes with the state
        unknown = self._scored(trainer, self._score, trainer.features_of(evenly(session.tests[-1].data, self.images)))
        self._sessions.append({"before_session": session.id, **_numbers(self._known, unknown, self._score.threshold)})

    def end_session(self, trainer: Trainer, session: Session) -> None:
        count = len(session.class_names)
        if count < 2:
            return
        score = fitted_score(self.kind, trainer.class_statistics(session), count)
        held = self._held_out(trainer, session, score)
        if len(held):
            self._thresholds.append(float(held.double().quantile(1 - self.quantile)))
        threshold = max(self._thresholds, default=float(torch.finfo(torch.float32).max))
        self._score = replace(score, threshold=threshold)
        share = max(1, self.images // len(session.tests))
        known = [trainer.features_of(evenly(test.data, share)) for test in session.tests if len(test.data)]
        self._known = torch.cat([self._scored(trainer, self._score, each) for each in known])

    def _held_out(self, trainer: Trainer, session: Session, score: NoveltyScore) -> Tensor:
        """[n] scores of known pictures that the score was not fitted to."""
        validation = trainer.validation_of(session)
        if validation is not None and len(validation):
            return self._scored(trainer, score, trainer.features_of(validation))
        rows, labels, index = own_rows(trainer, session)
        held = held_back(labels, index, trainer.seed, session.id)
        rest = trainer.class_statistics(session).before(session.id)
        rest.update(rows[~held], labels[~held])
        trial = fitted_score(self.kind, rest, len(session.class_names))
        return trial(rows[held].float(), torch.zeros(int(held.sum()), 0))

    @torch.no_grad()
    def _scored(self, trainer: Trainer, score: NoveltyScore, data: FeatureSet) -> Tensor:
        """[n] on the CPU."""
        head = trainer.head
        was_training = head.training
        head.eval()
        logits = head(data.features) if self.kind == "energy" else data.features[:, :0]
        found = score(head.embed(data.features), logits).cpu()
        head.train(was_training)
        return found

    def adapter_files(self) -> Mapping[str, bytes]:
        if self._score is None:
            return {}
        return {NOVELTY_FILE: replace(self._score, auroc=self.report().get("auroc")).to_bytes()}

    def report(self) -> dict[str, Any]:
        if not self._sessions:
            return {"kind": self.kind, "sessions": []}
        numbers = ("auroc", "caught_at_95", "known_rejected", "unknown_rejected")
        means = {name: statistics.mean(session[name] for session in self._sessions) for name in numbers}
        return {"kind": self.kind, **means, "sessions": list(self._sessions)}

    def state_dict(self) -> dict[str, Any]:
        score = self._score
        fitted = None if score is None else {"classes": score.classes, "threshold": score.threshold, "tensors": dict(score.tensors)}
        return {"score": fitted, "thresholds": self._thresholds, "known": self._known, "sessions": self._sessions}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        found = state["score"]
        self._score = None if found is None else NoveltyScore(self.kind, found["classes"], found["tensors"], found["threshold"])
        self._thresholds, self._sessions = list(state["thresholds"]), list(state["sessions"])
        self._known = state["known"]


def _numbers(known: Tensor, unknown: Tensor, threshold: float) -> dict[str, float]:
    """Of scores of known and of unknown pictures."""
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 (brings pandas and pyarrow along)

    labels = torch.cat([torch.zeros(len(known)), torch.ones(len(unknown))])
    strict = float(known.double().quantile(0.95))
    return {
        "auroc": float(roc_auc_score(labels.numpy(), torch.cat([known, unknown]).double().numpy())),
        "caught_at_95": float((unknown > strict).double().mean()),
        "known_rejected": float((known > threshold).double().mean()),
        "unknown_rejected": float((unknown > threshold).double().mean()),
    }
