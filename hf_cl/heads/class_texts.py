"""What class names say to a head of statistics: text embeddings beside the pictures' features.

Shapes: B batch, C classes seen so far, D feature width, E embedding width of the joint space.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_cl.heads.fitted import check_number
from hf_cl.heads.gaussian_fit import Gaussians

TextUse = Literal["none", "scores", "means"]
SHARPNESS = 10.0
"""Fused scores are this times a sum of standardised ones, so that their best temperature lies inside the grid from 1 to 100."""


class ClassTexts(nn.Module):
    """Embeddings of the classes' texts and the image tower's projection, copied in once: the text tower is not needed afterwards.

    Args:
        in_features: D, width of the pooled output.
        embedding_features: E, width of the joint space.
        use: "scores": the cosines to the texts join the head's scores; "means": class means are drawn towards what their texts predict.
        visual_weight: weight of the head's own scores beside the cosines.
        images: how many images a text counts for ("means").
        lam: the ridge penalty of the prediction from texts ("means").
        factory: device and dtype.

    Raises ValueError for a number out of range.
    """

    rows: Tensor
    """[C, E] at unit length; NaN where a class has no text yet."""
    projection: Tensor
    """[E, D]"""

    def __init__(
        self,
        in_features: int,
        embedding_features: int,
        use: TextUse,
        *,
        visual_weight: float,
        images: float,
        lam: float,
        **factory: Any,
    ) -> None:
        super().__init__()
        name = "GaussianHead"
        check_number(name, "visual_weight", visual_weight, math.ulp(0.0), math.inf, "a positive number")
        check_number(name, "text_images", images, 0.0, math.inf, "a number from 0")
        check_number(name, "text_lam", lam, math.ulp(0.0), math.inf, "a positive number")
        self.use, self.visual_weight, self.images, self.lam = use, visual_weight, images, lam
        self.register_buffer("rows", torch.empty(0, embedding_features, **factory))
        self.register_buffer("projection", torch.full((embedding_features, in_features), torch.nan, **factory))

    def grow(self, count: int) -> None:
        """Room for the texts of `count` classes."""
        self.rows = torch.cat([self.rows, self.rows.new_full((count, self.rows.shape[1]), torch.nan)])  # [C, E]

    @torch.no_grad()
    def write(self, rows: Tensor, projection: Tensor) -> None:
        """Copy [C, E] and [E, D]. Raises ValueError where they are of another size."""
        for mine, given in ((self.rows, rows), (self.projection, projection)):
            if mine.shape != given.shape:
                raise ValueError(f"The texts are {tuple(given.shape)}, and the head has room for {tuple(mine.shape)}.")
            mine.copy_(given)

    def cosines(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Between images and the texts of the classes, in the joint space."""
        return F.normalize(features @ self.projection.to(features).T, dim=-1) @ self.rows.to(features).T

    def fuse(self, scores: Tensor, features: Tensor) -> Tensor:
        """[B, C] scores of the head and cosines to the texts, each standardised over the classes, as one; or the scores as they are."""
        if self.use != "scores":
            return scores
        return SHARPNESS * fused(self.cosines(features), scores, self.visual_weight)

    def draw(self, of: Gaussians) -> Gaussians:
        """The same Gaussians with means drawn towards their texts, or as they are."""
        if self.use != "means":
            return of
        return replace(of, means=text_means(of, self.rows.cpu().double(), self.images, self.lam))


def fused(cosines: Tensor, scores: Tensor, visual_weight: float) -> Tensor:
    """[B, C] both standardised over the classes of each image, and added."""
    return standardised(cosines) + visual_weight * standardised(scores)


def standardised(scores: Tensor) -> Tensor:
    """[B, C]: minus the row's mean, by its standard deviation (n - 1); 0 where a row says nothing."""
    centred = scores - scores.mean(1, keepdim=True)
    if scores.shape[1] == 1:
        return centred
    spread = scores.std(1, keepdim=True)  # [B, 1]
    return torch.where(spread > 0, centred / spread, 0.0)


def predicted_means(means: Tensor, texts: Tensor, lam: float) -> Tensor:
    """[C, D] each class's mean as a linear image of its text [C, E], by ridge regression on the other classes; C >= 3.

    The leave-one-out prediction of a linear smoother, m - (A (m - mu)) / diag A, with A the inverse of the texts' kernel plus `lam`.
    """
    centred = texts - texts.mean(0)
    kernel = centred @ centred.T  # [C, C]
    kernel = kernel / kernel.diagonal().mean()
    inverse = torch.linalg.inv(kernel + lam * torch.eye(len(kernel), dtype=kernel.dtype))
    return means - inverse @ (means - means.mean(0)) / inverse.diagonal()[:, None]


def text_means(of: Gaussians, texts: Tensor, images: float, lam: float) -> Tensor:
    """[C, D] class means, each joined by `images` times what its text predicts. Fewer than three classes: as they are."""
    if len(of.means) < 3:
        return of.means
    predicted = predicted_means(of.means, texts, lam)
    counts = of.counts[:, None]
    return (counts * of.means + images * predicted) / (counts + images)
