"""Which augmented views go through the model, counted."""

from __future__ import annotations

import pytest
from coact_runs import build
from loop_case import build as build_ovor

from hf_cl.contracts import LossTerm, Method, Phase, everything


class Count:
    """Batch sizes of the forwards through the embeddings: with gradients (the model itself) and without (frozen states)."""

    def __init__(self, trainer) -> None:
        self.model, self.frozen = [], []
        trainer.backbone.vit.embeddings.register_forward_hook(self)

    def __call__(self, module, inputs, output) -> None:
        if module.training:
            self.model.append(len(inputs[0]))
        else:
            self.frozen.append(len(inputs[0]))


@pytest.mark.parametrize(
    ("objective", "later"),
    [
        ("fixed", 3),  # contrast with base_teacher and pretrained, consistency with base
        ("figure", 2),  # contrasts with base and teacher
    ],
)
def test_coact_runs_its_second_view_through_the_teacher_alone(tmp_path, objective, later):
    trainer = build(tmp_path, sessions=2, epochs=2, objective=objective)
    count = Count(trainer)
    trainer.fit()
    # 18 images: steps of 8, 8 and 2; two epochs of session 0, one of session 1
    assert count.model == [8, 8, 2] * 3
    evaluation = [18] * 2 + [8, 16]  # prototypes of two sessions; tests after session 0, and those of both sessions in one batch
    assert sorted(count.frozen) == sorted([8, 8, 2] * 2 + [8, 8, 2] * later + evaluation)


class Pair(LossTerm):
    name = "pair"
    needs = frozenset({"two_views"})

    def __init__(self) -> None:
        self.views = []

    def __call__(self, ctx):
        self.views.append(len(ctx.views))
        return (ctx.views[0].logits - ctx.views[1].logits).square().mean()


def test_two_views_through_the_model_are_one_forward(tmp_path):
    trainer, pair = build_ovor(tmp_path, sessions=1), Pair()
    trainer.method = Method(**{**trainer.method.__dict__, "phases": lambda session: [Phase("train", 1, [pair], everything)]})
    count = Count(trainer)
    trainer.fit()
    assert pair.views == [2, 2, 2] and count.model == [16, 16, 4]
