"""The kernel ridge head: least squares in a kernel's space, on a few rows of each class that a memory draws.

Shapes: B batch, C classes seen so far, D feature width, m rows of a class.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from hf_cl.contracts import Part, Session, Trainer
from hf_cl.heads.feature_maps import FeatureMap
from hf_cl.heads.fitted import as_on_rank_0, check_bool, check_count, check_number, own_rows
from hf_cl.heads.kernel_fit import Kernel, kernel_of, left_out_errors, solve_dual
from hf_cl.heads.linear import LinearHead
from hf_cl.hints import nearest
from hf_cl.memory.feature_cvae import FeatureCVAE
from hf_cl.memory.gaussian import GaussianMemory

logger = logging.getLogger(__name__)

GAMMA = {"rbf": 0.5, "laplace": 0.25}
PENALTIES = tuple(10.0 ** (k / 2) for k in range(-6, 7))
"""That "loo" chooses from, times the mean of the kernel's diagonal."""
CVAE = {"latent": 32, "hidden": 256, "beta": 1.0, "supcon_weight": 0.1, "supcon_tau": 0.1, "epochs": 50, "lr": 1e-3}


class _Memory(Protocol):
    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor: ...


class KernelRidgeHead(LinearHead, Part):  # pyright: ignore[reportIncompatibleMethodOverride]  # as a Part, its state is the module's
    """Kernel ridge regression on one-hot targets over a coreset: `coreset_per_class` rows of each class, drawn once, when its images are
    there, from a generative model of their features.

    The row "generative kernel continual learning" (Derakhshani et al., arXiv 2112.13410), for class-incremental streams: one system for all
    classes, no session id. Since inference needs the coreset, it is saved with the adapter, and with it nothing has to be generated again:
    the memory is fitted to a session's own images and then let go. The system is solved anew from the saved rows when an adapter is loaded.

    Rows are centred and scaled as session 0's are (`FeatureMap`). Train mode: trainable linear rows, as in every head that fits itself.

    Args:
        kernel: "rbf", "laplace", "linear" or "poly" (`kernel_fit.kernel_of`).
        gamma: of rbf (0.5 where it is not given) and of laplace (0.25), for rows of mean squared length 1.
        lam: the penalty, or "loo": of half powers of ten the one under which rows of the coreset are predicted best when left out.
        coreset_per_class: m.
        memory: "gaussian" (a Gaussian per class), "cvae" (`FeatureCVAE`, trained on the session's features) or "features" (real ones
            by lot: an upper bound, which keeps something of single images).
        cvae: settings of "cvae": latent, hidden, beta, supcon_weight, supcon_tau, epochs, lr.
        normalize: rows have length 1 first.
        device, dtype: of the parameters; the meta device is fine.

    Raises ValueError for a setting that is not one of these.
    """

    fits = True
    moves_with_statistics = False
    coreset: Tensor
    """[C, m, D] NaN where a class has none yet."""
    penalty: Tensor
    """[] lam as it was chosen."""
    alpha: Tensor
    """[C, m, C] weights of the coreset's rows; follows from it, so no file has it."""

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        kernel: Kernel = "rbf",
        gamma: float | None = None,
        lam: float | Literal["loo"] = "loo",
        coreset_per_class: int = 20,
        memory: Literal["gaussian", "cvae", "features"] = "gaussian",
        cvae: dict[str, float] | None = None,
        normalize: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        name = "KernelRidgeHead"
        check_bool(name, normalize=normalize)
        check_count(name, "coreset_per_class", coreset_per_class, 1, 2**16)
        if lam != "loo":
            check_number(name, "lam", lam, 0.0, math.inf, "loo or a number from 0")
        if gamma is not None:
            check_number(name, "gamma", gamma, math.ulp(0.0), math.inf, "a positive number")
        super().__init__(in_features, 0, device=device, dtype=dtype)
        self.kernel: Kernel = kernel
        self.gamma = GAMMA.get(kernel, 1.0) if gamma is None else float(gamma)
        self.lam, self.memory, self.cvae = lam, memory, _cvae_settings(cvae)
        factory: Any = {"device": self.weight.device, "dtype": self.weight.dtype}  # peft puts parameters alone on the meta device
        self.feature_map = FeatureMap(in_features, "none", 0, normalize=normalize, **factory)
        self.register_buffer("coreset", torch.empty(0, coreset_per_class, in_features, **factory))
        self.register_buffer("penalty", torch.full((), torch.nan, **factory))
        self.register_buffer("alpha", torch.empty(0, coreset_per_class, 0, dtype=self.weight.dtype), persistent=False)
        self._solved = False
        self.register_state_dict_post_hook(_save_rows_without_a_coreset)
        self.register_load_state_dict_post_hook(_forget_solution)
        self.grow([""] * num_classes)

    @property
    def statistics(self) -> frozenset[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Scatters of single classes, where they are drawn from."""
        return frozenset({"full"} if self.memory == "gaussian" else ())

    @property
    def new_classes_only(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What is drawn from a session's images alone would stand in the place of what earlier ones gave."""
        if self.memory == "gaussian":
            return ""
        return f"memory {self.memory!r} draws the rows of a class from the images of one session (`memory: gaussian` from all of its class)"

    def grow(self, class_names: Sequence[str]) -> None:
        super().grow(class_names)
        count, (_, m, width) = len(class_names), self.coreset.shape
        self.coreset = torch.cat([self.coreset, self.coreset.new_full((count, m, width), torch.nan)])
        self.alpha = self.alpha.new_zeros(self.num_classes, m, self.num_classes)
        self._solved = False

    # Prediction
    def train(self, mode: bool = True) -> KernelRidgeHead:
        super().train(mode)
        if not mode and not self._solved and not self.coreset.is_meta:
            self._solve()
        return self

    def forward(self, features: Tensor) -> Tensor:  # [B, D] -> [B, C]
        """Logits: the regression's values. A class without a coreset yet is judged by its row."""
        if self.training:
            return super().forward(features)
        if not self._solved:
            self._solve()
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.coreset.dtype)
            rows = self.feature_map(features)  # [B, D]
            points = self.feature_map(self.coreset.flatten(0, 1).nan_to_num())  # [C m, D]; without weight where there is none
            fitted = kernel_of(self.kernel, rows, points, self.gamma) @ self.alpha.flatten(0, 1)  # [B, C]
            return torch.where(self._known(), fitted, super().forward(features))

    def _known(self) -> Tensor:
        return ~self.coreset[:, 0, 0].isnan()  # [C]

    def as_linear(self) -> None:
        """No linear layer."""

    # Fitting
    @torch.no_grad()
    def end_session(self, trainer: Trainer, session: Session) -> None:
        """Draw the coreset of the session's classes and solve for all classes.

        Raises ValueError for a class without images, and where the system is singular.
        """
        features, labels, _ = own_rows(trainer, session)
        own = labels.unique().tolist()
        if session.id == 0:
            self.feature_map.begin(features)
        memory = self._fitted_memory(trainer, session, features, labels)
        for label in own:
            rows = memory.sample(label, self.coreset.shape[1], trainer.generator_for("coreset", label))
            self.coreset[label] = rows.to(self.coreset)
        as_on_rank_0([self.coreset])
        points, targets = self._system()
        gram = kernel_of(self.kernel, points, points, self.gamma)
        lam = self.lam
        if lam == "loo":
            scale = float(gram.diagonal().mean()) or 1.0
            grid = [scale * factor for factor in PENALTIES]
            lam = min(zip(left_out_errors(gram, targets, grid), grid, strict=True))[1]
        logger.info("Kernel ridge head: lam %.3g", lam)
        self.penalty.fill_(float(lam))
        self._solve()

    def _fitted_memory(self, trainer: Trainer, session: Session, features: Tensor, labels: Tensor) -> _Memory:
        statistics = trainer.class_statistics(session)
        if self.memory == "gaussian":
            return GaussianMemory(statistics)
        if self.memory == "features":
            return _Kept(features, labels)
        settings: Any = {name: self.cvae[name] for name in ("latent", "hidden", "beta", "supcon_weight", "supcon_tau")}
        cvae = _OfClasses(FeatureCVAE(features.shape[1], len(labels.unique()), **settings), labels)
        epochs, lr = int(self.cvae["epochs"]), self.cvae["lr"]
        cvae.model.fit(features, cvae.positions(labels), trainer.generator_for("cvae", session.id), epochs=epochs, lr=lr)
        return cvae

    def _system(self) -> tuple[Tensor, Tensor]:
        """Rows [n, D] of all classes that have a coreset, as a file holds them, and their targets [n, C], in float64 on the CPU."""
        known = self._known().cpu().nonzero()[:, 0]
        coreset = self.coreset.cpu().double()[known]  # [K, m, D]
        labels = known.repeat_interleave(coreset.shape[1])
        return self.feature_map(coreset.flatten(0, 1)), F.one_hot(labels, self.num_classes).double()

    @torch.no_grad()
    def _solve(self) -> None:
        points, targets = self._system()
        self.alpha = self.alpha.new_zeros(self.num_classes, self.coreset.shape[1], self.num_classes, device=self.coreset.device)
        if len(points):
            gram = kernel_of(self.kernel, points, points, self.gamma)
            found = solve_dual(gram, targets, float(self.penalty)).to(self.alpha)  # [n, C]
            self.alpha[self._known()] = found.view(-1, *self.alpha.shape[1:])
        self._solved = True


class _Kept:
    """Real features by lot; of fewer than asked for, some come twice."""

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features, self.labels = features, labels

    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        rows = self.features[self.labels == label]
        order = torch.cat([torch.randperm(len(rows), generator=generator) for _ in range(-(-count // len(rows)))])
        return rows[order[:count]]


class _OfClasses:
    """A memory of a session's classes, which it numbers from 0."""

    def __init__(self, model: FeatureCVAE, labels: Tensor) -> None:
        self.model, self._classes = model, labels.unique()

    def positions(self, labels: Tensor) -> Tensor:
        return torch.searchsorted(self._classes, labels)

    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        return self.model.sample(int(self.positions(torch.tensor(label))), count, generator)


def _cvae_settings(given: Mapping[str, float] | None) -> dict[str, float]:
    """Raises ValueError for an unknown setting, a size that is no whole number, and a number that is not positive (weights may be 0)."""
    for name, value in (given or {}).items():
        if name not in CVAE:
            raise ValueError(f"KernelRidgeHead: cvae has no setting {name!r}; it has {', '.join(CVAE)}.{nearest(name, CVAE)}")
        if name in ("latent", "hidden", "epochs"):
            check_count("KernelRidgeHead", f"cvae.{name}", value, 1, 2**20)
        else:
            least = 0.0 if name in ("beta", "supcon_weight") else math.ulp(0.0)
            check_number("KernelRidgeHead", f"cvae.{name}", value, least, math.inf, "a positive number")
    return CVAE | dict(given or {})


# Rows whose class has a coreset are training state. Loaders find keys by the head's state_dict: the same before and after the first fit.
def _save_rows_without_a_coreset(head: KernelRidgeHead, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    known = head._known()
    state_dict[f"{prefix}weight"] = head.weight.detach().masked_fill(known[:, None], 0.0)
    assert head.bias is not None
    state_dict[f"{prefix}bias"] = head.bias.detach().masked_fill(known, 0.0)


def _forget_solution(head: KernelRidgeHead, keys: Any) -> None:
    head._solved = False
