"""The Gaussian head: every class is a Gaussian in the space of the features.

Shapes: B batch, C classes seen so far, c classes of the session, D feature width, M width of a feature map (D without one).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.class_texts import ClassTexts, TextUse
from hf_cl.heads.cosine import CosineHead
from hf_cl.heads.feature_maps import FeatureMap
from hf_cl.heads.fitted import as_on_rank_0, check_count, copy_same_shapes, own_rows
from hf_cl.heads.gaussian_fit import Gaussians, log_det
from hf_cl.heads.gaussian_forms import inverse_cholesky, make_form, pack, triangle, unpack
from hf_cl.heads.gaussian_settings import check_settings, form_of
from hf_cl.heads.gaussian_votes import Candidates, Choice, Setting, Votes
from hf_cl.heads.held_back import held_back
from hf_cl.heads.map_store import MapStore
from hf_cl.memory.class_statistics import ClassStatistics

logger = logging.getLogger(__name__)


class GaussianHead(CosineHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """Every class is a Gaussian, fitted in closed form: linear or regularised discriminant analysis, with a prior over class means, or on
    random features. One pass over the images, no gradient.

    Counts, means and scatters add up over the sessions, so the head after a session is the one fitted to all images at once: nothing is
    forgotten as long as the features stand still. `hf_cl.heads.gaussian_fit` has the formulas and their sources, `gaussian_votes` how
    shrinkage, own share and temperature are chosen by images that are held back.

    In train mode it is a `CosineHead`: trainable rows, which begin at the class means, so that a loss can teach the adapter. Eval mode is
    the fit; a class without one yet (a probe inside its session) is a Gaussian at its row with the shared covariance.

    Saved are the fit and one vector per class, `means`, which are the rows of a loaded head. Statistics and votes go to checkpoints alone.

    Args:
        covariance: "shared" (one linear layer), "mixed" (a share of each class's own covariance), "low_rank" (the same, of each class's own
            the `rank` largest directions); "auto": shared with a prior, a feature map or normalize, else mixed up to a width of 384 and
            low_rank above.
        rank: directions of "low_rank".
        shrinkage: of the shared covariance towards a multiple of the identity: a number in [0, 1], "rule" or "auto" (votes; with a prior
            the rule).
        own_share: of each class's own covariance: a number in [0, 1), "rule" or "auto" (votes).
        prior: class means are drawn from one Gaussian: for classes of very different size, as a large base and then few shots.
        prior_flatness: share of the prior's variance that is spread evenly over all directions.
        feature_map, map_dim, gamma, map_seed: "rff" or "relu" (`FeatureMap`); with the shared covariance.
        normalize: features have length 1 first; with the shared covariance.
        temperature: by which scores are divided; "auto": by the held-back images of all sessions.
        text: class names join in: "scores" (cosines to their texts beside the pictures' scores, both standardised) or "means" (class means
            are drawn towards what the texts predict). Needs `pool: pooled`; the run encodes the texts once.
        visual_weight: of the pictures beside the texts ("scores").
        text_images: how many pictures a text counts for ("means").
        text_lam: ridge penalty of what texts predict ("means").
        template: text of a class; `{}` is its name.
        text_width: E, width of the space of texts and pictures; the run writes it down.
        scale: of the training rows.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these, or that another one excludes.
    """

    fits = True
    means: Tensor
    """[C, D] class means; NaN where a class is not fitted."""
    temperature: Tensor
    """[]"""
    hits: Tensor
    voted: Tensor
    curves: Tensor
    shared_center: Tensor
    shared_whitener: Tensor
    shared_log_det: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        covariance: Literal["auto", "shared", "mixed", "low_rank"] = "auto",
        rank: int = 8,
        shrinkage: Choice = "auto",
        own_share: Choice = "auto",
        prior: bool = False,
        prior_flatness: float = 0.2,
        feature_map: Literal["none", "rff", "relu"] = "none",
        map_dim: int = 1024,
        gamma: float = 0.1,
        map_seed: int = 0,
        normalize: bool = False,
        temperature: float | Literal["auto"] = "auto",
        text: TextUse = "none",
        visual_weight: float = 2.5,
        text_images: float = 5.0,
        text_lam: float = 1.0,
        template: str = "a photo of a {}.",
        text_width: int | None = None,
        scale: float = 16.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, 0, scale=scale, device=device, dtype=dtype)
        form = form_of(in_features, covariance, rank, own_share, prior, prior_flatness, feature_map, normalize)
        check_settings(shrinkage, own_share, temperature, map_dim, gamma)
        self.candidates, self.fixed_temperature = Candidates(shrinkage, own_share, form), temperature
        factory: Any = {"device": self.weight.device, "dtype": self.weight.dtype}  # peft puts parameters alone on the meta device
        self.feature_map: FeatureMap | None = None
        if feature_map != "none" or normalize:
            self.feature_map = FeatureMap(in_features, feature_map, map_dim, gamma=gamma, seed=map_seed, normalize=normalize, **factory)
        self.map_features = in_features if self.feature_map is None else self.feature_map.out_features
        self.form = make_form(form, self.map_features, **factory)
        self.texts: ClassTexts | None = None
        if text != "none":
            weights: Any = {"visual_weight": visual_weight, "images": text_images, "lam": text_lam}
            check_count("GaussianHead", "text_width", text_width, 1, 2**16)
            self.texts = ClassTexts(in_features, int(text_width or 0), text, **weights, **factory)
        self.register_buffer("means", torch.empty(0, in_features, **factory))
        self.register_buffer("temperature", torch.full((), torch.nan, **factory))
        self._register_training_state()
        self._fitted = 0
        self.register_state_dict_post_hook(_save_means_for_rows)
        self.register_load_state_dict_pre_hook(_start_rows_at_means)
        self.register_load_state_dict_post_hook(_count_fitted)
        self._grow(num_classes)

    def _register_training_state(self) -> None:
        """Non-persistent buffers, on the CPU until the model moves: never on the meta device, since no file has them."""
        none = Votes.none(self.candidates)
        state = {"hits": none.hits, "voted": none.voted, "curves": none.curves}
        dtype = self.weight.dtype
        state |= {"shared_center": torch.full((self.map_features,), torch.nan, dtype=dtype)}
        state |= {"shared_whitener": torch.full((triangle(self.map_features),), torch.nan, dtype=dtype)}
        state |= {"shared_log_det": torch.zeros((), dtype=dtype)}
        for name, tensor in state.items():
            self.register_buffer(name, tensor, persistent=False)
        self.map_store = None if self.feature_map is None else MapStore(self.map_features)

    @property
    def statistics(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Means alone under a map, one scatter under a shared covariance, else all."""
        if self.feature_map is not None:
            return frozenset()
        return frozenset({"pooled"} if self.candidates.form.covariance == "shared" else {"pooled", "full"})

    @property
    def moves_with_statistics(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether features that move can be followed: a linear map of features is none of their images under a map."""
        return self.feature_map is None

    @property
    def own_temperature(self) -> float | None:
        """`temperature`, fitted or set; NaN before the first fit."""
        return float(self.temperature)

    # Growth
    def grow(self, class_names: Sequence[str]) -> None:
        self._grow(len(class_names))

    def _grow(self, count: int) -> None:
        self._append(count)
        self.means = torch.cat([self.means, self.means.new_full((count, self.in_features), torch.nan)])  # [C, D]
        self.form.grow(self.num_classes)
        if self.map_store is not None:
            self.map_store.grow(count)
        if self.texts is not None:
            self.texts.grow(count)

    def write_texts(self, rows: Tensor, projection: Tensor | None) -> None:
        assert self.texts is not None and projection is not None
        self.texts.write(rows, projection)

    # Prediction
    def train(self, mode: bool = True) -> GaussianHead:
        super().train(mode)
        if not mode:
            self._count_fitted()
        return self

    def _count_fitted(self) -> None:
        """Kept as a number, so that a forward does not wait for the device."""
        fitted = self.form.fitted()
        self._fitted = 0 if fitted.is_meta else int(fitted.sum())

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits: log densities over the temperature, up to a number per image."""
        if self.training or not self._fitted:
            return super().forward(features)
        with torch.autocast(features.device.type, enabled=False):  # differences of large numbers
            features = features.to(self.means.dtype)
            rows = features if self.feature_map is None else self.feature_map(features)  # [B, M]
            scores = self.form.scores(rows, self.means)
            if self._fitted < self.num_classes:
                scores = torch.where(self.form.fitted(), scores, self._scores_at_rows(rows))
            return (scores if self.texts is None else self.texts.fuse(scores, features)) / self.temperature

    def _scores_at_rows(self, rows: Tensor) -> Tensor:
        """[B, C] as if each class were a Gaussian at its row, with the shared covariance of the last fit; -inf in a loaded head, which has
        not got that."""
        points = self.weight if self.feature_map is None else self.feature_map(self.weight)  # [C, M]
        whitener = unpack(self.shared_whitener, self.map_features)
        x, means = (rows - self.shared_center) @ whitener.T, (points - self.shared_center) @ whitener.T
        scores = (-0.5 * torch.cdist(x, means).square()).nan_to_num(nan=-torch.inf)  # [B, C]
        if self.candidates.form.flatness is not None:
            return scores
        if self.candidates.form.covariance == "shared":  # measured from the center
            return scores + 0.5 * x.square().sum(1, keepdim=True)
        return scores - 0.5 * self.shared_log_det

    def as_linear(self) -> nn.Linear | None:
        """Where every class has the same covariance: `scores / temperature` up to a number per image, so the same log-probabilities."""
        linear_so_far = self.feature_map is None and (self.texts is None or self.texts.use == "means")
        layer = self.form.layer(self.means) if linear_so_far and 0 < self._fitted == self.num_classes else None
        if layer is None:
            return None
        linear = nn.Linear(self.in_features, self.num_classes, device=self.means.device, dtype=self.means.dtype)
        with torch.no_grad():
            linear.weight.copy_(layer[0] / self.temperature)
            linear.bias.copy_(layer[1] / self.temperature)
        return linear

    # Fitting
    def begin_session(self, trainer: Trainer, session: Session) -> None:
        """The new rows begin at the class means of the features as they are now."""
        features, labels, _ = own_rows(trainer, session)
        with torch.no_grad():
            for label in range(session.first_new_class, len(session.class_names)):
                self.weight[label] = features[labels == label].mean(0).to(self.weight)

    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Votes of what is held back, then the fit of all classes.

        Raises ValueError for a class without images and for a covariance that is singular.
        """
        features, labels, index = own_rows(trainer, session)
        store = trainer.class_statistics(session)
        before, whole = store.before(session.id), store
        rows = features
        if self.feature_map is not None and self.map_store is not None:
            if session.id == 0:
                self.feature_map.begin(features)
            rows = self.feature_map(features)  # [n, M]
            before, whole = self.map_store.statistics(), self.map_store.statistics()
            whole.update(rows, labels, index)
            self.map_store.keep(whole, whole.pooled_scatter())
        votes = self._votes()
        votes.fade(before.images(before.classes), whole.images(before.classes))
        of = self._gaussians(whole)
        held = held_back(labels, index, trainer.seed, session.id)
        if held.any() and (len(self.hits) > 1 or self.fixed_temperature == "auto"):
            before.update(rows[~held], labels[~held])
            images = len(labels) / len(labels.unique())
            fuse = None if self.texts is None else partial(self.texts.fuse, features=features[held])
            votes.add(self.candidates, self._gaussians(before), rows[held], labels[held], of.counts, images, fuse)
        self._settle(of, votes, store)
        as_on_rank_0([self.means, self.temperature, *self.form.buffers()])
        self._count_fitted()

    def _settle(self, of: Gaussians, votes: Votes, store: ClassStatistics) -> None:
        setting, curve = votes.choose(self.candidates)
        temperature = votes.temperature(curve) if self.fixed_temperature == "auto" else float(self.fixed_temperature)
        self._fit(of, setting, temperature, store.means(range(self.num_classes)))
        self._buffers_from(votes)

    def take_over(self, other: Any, groups: Sequence[Sequence[int]]) -> None:
        """What does not count classes, and under a map its store, of a head whose classes are joined in `groups`; before `refit`."""
        copy_same_shapes(self, other)
        if self.map_store is not None and other.map_store is not None:
            self.map_store.regroup(other.map_store, groups)

    @torch.no_grad()
    def refit(self, statistics: ClassStatistics) -> None:
        """Fit all classes to statistics alone, by what the votes so far say."""
        whole = statistics if self.map_store is None else self.map_store.statistics()
        self._settle(self._gaussians(whole), self._votes(), statistics)
        self._count_fitted()

    def _gaussians(self, statistics: ClassStatistics) -> Gaussians:
        of = Gaussians.of(statistics, self.num_classes, own=self.candidates.form.covariance != "shared")
        return of if self.texts is None else self.texts.draw(of)

    def _fit(self, of: Gaussians, setting: Setting, temperature: float, means: Tensor) -> None:
        shrinkage, shares = setting.shrinkage_of(of), setting.shares_of(of, of.counts)
        logger.info("Gaussian head: shrinkage %.3g, own share up to %.3g, temperature %.3g", shrinkage, shares.max(), temperature)
        self.form.fit(of, shrinkage, shares)
        self.means.copy_(means)
        self.temperature.fill_(temperature)
        lower = of.cholesky(shrinkage)
        self.shared_center.copy_(of.center)
        self.shared_whitener.copy_(pack(inverse_cholesky(lower)))
        self.shared_log_det.copy_(log_det(lower))

    def _votes(self) -> Votes:
        return Votes(*(getattr(self, name).cpu().clone() for name in ("hits", "voted", "curves")))

    def _buffers_from(self, votes: Votes) -> None:
        for name in ("hits", "voted", "curves"):
            getattr(self, name).copy_(getattr(votes, name))


# Loaders find a head's keys by its state_dict, before and after the first fit: the set of keys must be the same.
def _save_means_for_rows(head: GaussianHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    del state_dict[f"{prefix}weight"]
    state_dict[f"{prefix}means"] = torch.where(head.means[:, :1].isnan(), head.weight, head.means).detach()


def _count_fitted(head: GaussianHead, keys: Any) -> None:
    head._count_fitted()


def _start_rows_at_means(head: GaussianHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}means" in state_dict:  # a copy: where tensors are assigned, rows and means must not share memory
        state_dict[f"{prefix}weight"] = state_dict[f"{prefix}means"].clone()
