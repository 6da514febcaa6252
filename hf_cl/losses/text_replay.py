"""Texts of earlier classes, in many templates, beside every batch.

Shapes: B batch, C classes seen so far, O classes of earlier sessions, E embedding width, n texts that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.adapters.template_texts import TemplateTexts
from hf_cl.adapters.text_classifier import TextHead
from hf_cl.contracts import Context, LossTerm, Session, Trainer

TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
"""The seven of CLIP's eighty that its authors found to be enough together (github.com/openai/CLIP, notebook on ImageNet)."""


class TextReplay(LossTerm):
    """Cross-entropy of texts of earlier classes among the mean image features of all classes seen: replay without an image.

    `- mean log softmax(s u_j M / |M|)_{c_j}` with `u_j` the unit text embedding of class `c_j` in a drawn template, `M` [C, E] the means
    and `s` the head's scale. The nearest thing, for CLIP's text side, to the generated queries of Mehta et al., "DSI++: Updating
    Transformer Memory with New Documents" (EMNLP 2023): names are the generator. Classes come in turn, so that over any stretch of steps
    their counts differ by one at most; templates are drawn for each text.

    The gradient reaches what is trained in the text tower. Means of earlier classes are those of the end of their session, of the session's
    own classes those of its beginning: exact while the image side stands still. In an online stream the latter are left out. Every process
    draws the same texts, as a function of seed, session and step.

    Args:
        weight: a number, or a function of the phase's epoch.
        ratio: texts drawn per image of the step.
        templates: with one `{}` each.

    Raises ValueError for settings out of range; `begin_session` for a head that is none of texts, and for a step that would draw none.
    """

    name = "text_replay"
    first_session = 1

    def __init__(self, weight: float | Callable[[int], float] = 1.0, ratio: float = 1.0, templates: Sequence[str] = TEMPLATES) -> None:
        if not ratio > 0:
            raise ValueError(f"TextReplay: ratio must be positive, got {ratio}.")
        bad = [template for template in templates if template.count("{}") != 1]
        if bad or not templates:
            raise ValueError(f"TextReplay: templates is a list of texts with one {{}} each{f', got {bad[0]!r}' if bad else ''}.")
        self.weight, self.ratio, self.templates = weight, ratio, tuple(templates)
        self._own: Tensor | None = None  # [C - O, E] means of the session's new classes, by the model that it began with
        self._means = torch.empty(0)
        self._texts: TemplateTexts | None = None

    def begin_session(self, trainer: Trainer, session: Session) -> None:
        if not isinstance(trainer.head, TextHead):
            raise ValueError(
                f"TextReplay replays class names, and the head is a {type(trainer.head).__name__}: give it "
                "--head '{type: text}' and a base with two towers, such as demo_clip."
            )
        self._trainer, self._session, self._texts, self._own = trainer, session, None, None
        size = session.batch_size or len(session.train)
        self._rows = round(self.ratio * min(size, len(session.train)))
        if self._rows < 1:
            raise ValueError(f"TextReplay: ratio {self.ratio} draws no text in steps of {size}; at least {1 / size:g} draws one.")
        TemplateTexts(trainer.head, self.templates, len(session.class_names))  # a template that is too long is refused here
        if session.id and session.new_class_names and session.exposed is None:
            data = trainer.features_of(session.train)
            new = range(session.first_new_class, len(session.class_names))
            self._own = torch.stack([data.features[data.labels == label].float().mean(0) for label in new])  # [C - O, E]

    def begin_epoch(self, trainer: Trainer, epoch: int) -> None:
        self._tabulate()

    def _tabulate(self) -> None:
        """Texts and unit means, once a session; after a resume, in its first step."""
        if self._texts is not None or not self._session.id:
            return
        head, known = self._trainer.head, self._session.first_new_class
        assert isinstance(head, TextHead)  # begin_session has seen to it
        means = self._trainer.statistics.means(range(known)).float().to(self._trainer.accelerator.device)  # [O, E]
        if self._own is not None:
            self._own = self._own.to(means)
            means = torch.cat([means, self._own])  # [C, E]
        self._means = F.normalize(means, dim=-1)
        self._texts = TemplateTexts(head, self.templates, known)

    def end_session(self, trainer: Trainer, session: Session) -> None:
        trainer.class_statistics(session)

    def __call__(self, ctx: Context) -> Tensor:
        self._tabulate()
        assert self._texts is not None  # it begins with session 1
        generator = self._trainer.generator_for("text_replay", ctx.session.id, ctx.step)
        classes = (torch.arange(self._rows) + ctx.step * self._rows) % self._session.first_new_class  # [n] in turn
        templates = torch.randint(len(self.templates), (self._rows,), generator=generator)  # [n]
        texts = self._texts.encode(classes, templates)  # [n, E]
        with torch.autocast(texts.device.type, enabled=False):
            logits = self._texts.head.scaled(texts @ self._means.T)  # [n, C]
            return F.cross_entropy(logits, classes.to(logits.device, non_blocking=True))

    def state_dict(self) -> dict[str, Any]:
        return {"own": self._own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Texts and means are made anew: the statistics are restored after the losses."""
        self._own, self._texts = state["own"], None
