"""Features of a class drawn from a conditional variational autoencoder.

Shapes: n rows, D feature width, C classes, Z latent width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
PATIENCE = 5
"""Training ends after so many epochs in which its loss was not lower than before."""


class FeatureCVAE(nn.Module):
    """Encoder and decoder see the class; each class has a Gaussian prior of unit variance around a mean that is learnt.

    Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014; Sohn et al., NeurIPS 2015 (conditional); as the feature memory of
    "Generative Kernel Continual Learning" (Derakhshani et al., arXiv 2112.13410), which adds a supervised contrast on the latent means. The
    paper names no sizes; these are ours.

    Args:
        width: D.
        num_classes: C.
        latent: Z.
        hidden: width of the one hidden layer of encoder and of decoder.
        beta: weight of the divergence from the prior.
        supcon_weight, supcon_tau: weight and temperature of the contrast.
    """

    center: Tensor  # [D]
    scale: Tensor  # [D]

    def __init__(
        self,
        width: int,
        num_classes: int,
        *,
        latent: int = 32,
        hidden: int = 256,
        beta: float = 1.0,
        supcon_weight: float = 0.1,
        supcon_tau: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_classes, self.beta, self.supcon_weight, self.supcon_tau = num_classes, beta, supcon_weight, supcon_tau
        self.enc1 = nn.Linear(width + num_classes, hidden)
        self.mu, self.lv = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.prior_mu = nn.Parameter(torch.zeros(num_classes, latent))
        self.dec1, self.dec2 = nn.Linear(latent + num_classes, hidden), nn.Linear(hidden, width)
        self.register_buffer("center", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def encode(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [n, Z] of the posterior of standardised rows [n, D]."""
        hidden = torch.tanh(self.enc1(torch.cat([x, self._one_hot(labels, x)], 1)))
        return self.mu(hidden), self.lv(hidden)

    def decode(self, z: Tensor, labels: Tensor) -> Tensor:
        """[n, D] standardised rows."""
        return self.dec2(torch.tanh(self.dec1(torch.cat([z, self._one_hot(labels, z)], 1))))

    def _one_hot(self, labels: Tensor, like: Tensor) -> Tensor:
        return F.one_hot(labels, self.num_classes).to(like)

    def losses(self, x: Tensor, labels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, divergence and contrast of standardised rows [n, D], with `noise` [n, Z]."""
        mean, log_variance = self.encode(x, labels)
        z = mean + (0.5 * log_variance).exp() * noise
        rebuilt = 0.5 * (x - self.decode(z, labels)).square().sum(1).mean()
        divergence = 0.5 * (log_variance.exp() + (mean - self.prior_mu[labels]).square() - 1 - log_variance).sum(1).mean()
        return rebuilt, divergence, contrast(mean, labels, self.supcon_tau)

    def loss(self, x: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """What training lowers."""
        rebuilt, divergence, apart = self.losses(x, labels, noise)
        return rebuilt + self.beta * divergence + self.supcon_weight * apart

    @torch.enable_grad()
    def fit(self, features: Tensor, labels: Tensor, generator: torch.Generator, *, epochs: int = 50, lr: float = 1e-3) -> None:
        """Learn from rows [n, D] of classes [n]; initial values, order and noise come from `generator`, and from nothing else."""
        self._draw_weights(generator)
        features = features.to(self.center)
        self.center.copy_(features.mean(0))
        self.scale.copy_(features.std(0, correction=0).clamp_min(1e-6))
        x = (features - self.center) / self.scale
        optimizer = torch.optim.Adam(self.parameters(), lr)
        best, waited = torch.inf, 0
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(x), generator=generator).split(BATCH):
                noise = torch.randn(len(rows), self.prior_mu.shape[1], generator=generator).to(x)
                loss = self.loss(x[rows], labels[rows], noise)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            best, waited = min(best, total), 0 if total < best else waited + 1
            if waited == PATIENCE:
                break

    @torch.no_grad()
    def _draw_weights(self, generator: torch.Generator) -> None:
        for layer in (self.enc1, self.mu, self.lv, self.dec1, self.dec2):
            bound = layer.in_features**-0.5
            for parameter in (layer.weight, layer.bias):
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.copy_(bound * (2 * drawn - 1))
        self.prior_mu.copy_(torch.randn(self.prior_mu.shape, generator=generator))

    @torch.no_grad()
    def sample(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """[count, D] float64: the decoder's rows of draws from the class's prior."""
        noise = torch.randn(count, self.prior_mu.shape[1], generator=generator).to(self.prior_mu)
        rows = self.decode(self.prior_mu[label] + noise, torch.full((count,), label))
        return (rows * self.scale + self.center).double()


def contrast(points: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Supervised contrast of rows [n, Z] by their angles (Khosla et al., NeurIPS 2020); rows that are alone in their class are left out,
    and 0 where all are."""
    u = F.normalize(points, dim=1)
    others = ~torch.eye(len(u), dtype=torch.bool, device=u.device)
    logits = u @ u.T / tau  # [n, n]
    log_share = logits - logits.masked_fill(~others, -torch.inf).logsumexp(1, keepdim=True)
    same = (labels[:, None] == labels) & others
    counts = same.sum(1)
    paired = counts > 0
    if not paired.any():
        return points.sum() * 0.0
    per_row = -(log_share * same).sum(1)[paired] / counts[paired]
    return per_row.mean()
