"""The conditional autoencoder of features against reference numbers, and what it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from hf_cl.memory.feature_cvae import FeatureCVAE, contrast

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "ridge" / "cvae.npz")
WEIGHTS = {name.removeprefix("w_"): name for name in REFERENCE.files if name.startswith("w_")}


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def close(mine: torch.Tensor | None, name: str) -> None:
    wanted = reference(name)
    assert mine is not None
    assert (mine - wanted).abs().max() <= 1e-10 * max(1.0, float(wanted.abs().max())), name


def of_the_reference() -> FeatureCVAE:
    settings = {name: float(REFERENCE[name]) for name in ("beta", "supcon_weight", "supcon_tau")}
    model = FeatureCVAE(6, 4, latent=3, hidden=8, **settings).double()
    own = dict(model.named_parameters())
    with torch.no_grad():
        for name, key in WEIGHTS.items():
            module, _, kind = name.rpartition("_")
            own[name if name == "prior_mu" else f"{module}.{ {'w': 'weight', 'b': 'bias'}[kind] }"].copy_(reference(key))
    return model


def test_forward_losses_and_gradients():
    model, x, labels, noise = of_the_reference(), reference("x"), reference("labels"), reference("eps")
    mean, log_variance = model.encode(x, labels)
    close(mean, "mu")
    close(log_variance, "logvar")
    close(model.decode(mean + (0.5 * log_variance).exp() * noise, labels), "recon")
    for loss, name in zip(model.losses(x, labels, noise), ("loss_rec", "loss_kl", "loss_supcon"), strict=True):
        close(loss, name)
    total = model.loss(x, labels, noise)
    close(total, "loss")
    total.backward()
    close(model.prior_mu.grad, "g_prior_mu")
    for layer in ("enc1", "mu", "lv", "dec1", "dec2"):
        close(getattr(model, layer).weight.grad, f"g_{layer}_w")
        close(getattr(model, layer).bias.grad, f"g_{layer}_b")


def test_what_is_generated():
    model = of_the_reference()
    labels = reference("gen_labels")
    close(model.decode(model.prior_mu[labels] + reference("gen_noise"), labels), "generated")


def test_a_contrast_without_pairs_is_nothing():
    points = torch.randn(3, 2, requires_grad=True)
    loss = contrast(points, torch.arange(3), 0.1)
    loss.backward()
    assert loss == 0 and points.grad is not None and not points.grad.any()


def test_draws_lie_at_their_class_and_depend_on_the_generator_alone():
    labels = torch.arange(3).repeat_interleave(60)
    centers = 5 * torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    features = centers[labels] + torch.randn(180, 8, generator=torch.Generator().manual_seed(2))
    drawn = []
    for state in (0, 7):
        torch.manual_seed(state)
        model = FeatureCVAE(8, 3, latent=4, hidden=32)
        model.fit(features, labels, torch.Generator().manual_seed(3), epochs=100, lr=5e-3)
        drawn.append([model.sample(c, 40, torch.Generator().manual_seed(c)) for c in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    for label, rows in enumerate(drawn[0]):
        assert (torch.cdist(rows, centers.double()).argmin(1) == label).all()
        assert rows.std(0).mean() > 0.05  # no single point
