"""Class names beside pictures under the Gaussian head: the reference numbers, and what they are good for."""

from __future__ import annotations

import pytest
import torch
from gaussian_reference import close, reference, statistics_after, value

from hf_cl.heads import build_head, check_head
from hf_cl.heads.class_texts import ClassTexts, fused, predicted_means, standardised, text_means
from hf_cl.heads.gaussian_fit import Gaussians, shared_layer

FUSED = {"type": "gaussian", "pool": "pooled", "text": "scores", "text_width": 5}


def of() -> Gaussians:
    return Gaussians.of(statistics_after(2), 9, own=False)


def test_means_drawn_towards_their_texts():
    texts, images, lam = reference("text_rows"), value("text_k0"), value("text_lam")
    close(predicted_means(of().means, texts, lam), "text_predicted_means")
    close(text_means(of(), texts, images, lam), "text_means")
    drawn = of().with_means(text_means(of(), texts, images, lam))
    weight, bias = shared_layer(drawn, drawn.cholesky(value("shrinkage")))
    close(reference("query") @ weight.T + bias, "text_scores")


def test_scores_of_pictures_and_texts_as_one():
    close(fused(reference("text_cosines"), reference("shared_scores_after_2"), value("visual_weight")), "fused_scores")


def test_rows_that_say_nothing_are_zero():
    assert torch.equal(standardised(torch.full((2, 3), 7.0)), torch.zeros(2, 3))
    assert torch.equal(standardised(torch.tensor([[5.0], [6.0]])), torch.zeros(2, 1))


def test_two_classes_keep_their_means():
    few = Gaussians.of(statistics_after(0), 2, own=False)
    assert torch.equal(text_means(few, torch.randn(2, 5, dtype=torch.float64), 5.0, 1.0), few.means)


def test_cosines_are_those_of_the_joint_space():
    texts = ClassTexts(4, 3, "scores", visual_weight=1.0, images=5.0, lam=1.0)
    texts.grow(2)
    generator = torch.Generator().manual_seed(0)
    rows, projection = torch.randn(2, 3, generator=generator), torch.randn(3, 4, generator=generator)
    texts.write(torch.nn.functional.normalize(rows, dim=1), projection)
    features = torch.randn(5, 4, generator=generator)
    wanted = torch.cosine_similarity((features @ projection.T)[:, None], rows[None], dim=-1)
    assert torch.allclose(texts.cosines(features), wanted, atol=1e-6)
    with pytest.raises(ValueError, match=r"The texts are \(3, 3\), and the head has room for \(2, 3\)"):
        texts.write(rows.new_zeros(3, 3), projection)


def test_shapes_follow_from_the_settings():
    head = build_head(FUSED, 12, 2)
    head.grow(["c"])
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
    assert shapes["texts.rows"] == (3, 5) and shapes["texts.projection"] == (5, 12)
    assert not any(name.startswith("texts.") for name in build_head({"type": "gaussian"}, 12, 2).state_dict())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pool": None}, "give the head `pool: pooled` too"),
        ({"text": "means", "visual_weight": 0}, "visual_weight is a positive number"),
        ({"text_images": -1}, "text_images is a number from 0"),
        ({"text": "words"}, "text"),
        ({"text_width": None}, "text_width is a whole number"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        spec = FUSED | settings
        check_head(spec)
        build_head(spec, 12, 2)
