"""A contrast of masked features: the reference numbers, masks that are a function of their address, and a run that goes on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from device_runs import Kill, Run, _Killed, build
from safetensors.torch import load_file
from torch import nn

from hf_cl.losses import MaskedViewContrast
from hf_cl.losses.masked_views import correlated_masks, information, masked_contrast
from hf_cl.methods import compose

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "feature_masks" / "masks.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def close(mine: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(mine, reference(name), rtol=1e-12, atol=1e-12)


def test_information_and_masks_are_the_reference():
    told = information(reference("features"))
    close(told, "information")
    assert torch.equal(correlated_masks(told), reference("masks"))


def test_loss_and_gradient_are_the_reference():
    projection = reference("projection").requires_grad_()
    hidden = reference("masks")[reference("seed_feature")]
    batch = reference("batch")
    views = [torch.where(mask, 0.0, batch) @ projection.T for mask in (hidden, ~hidden)]
    loss = masked_contrast(views[0], views[1], float(reference("tau")))
    loss.backward()
    close(loss, "loss")
    assert projection.grad is not None
    close(projection.grad, "grad")
    both = 0.5 * (loss + masked_contrast(views[1], views[0], float(reference("tau"))))
    assert abs(float((both - loss).detach())) > 0.05  # one direction, as published


def test_a_feature_that_never_changes_is_hidden_from_nobody_s_seed():
    features = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    features[:, 2] = 7.0
    told = information(features)
    assert bool((told[2] == -1).all()) and bool((told[:, 2] == -1).all())
    masks = correlated_masks(told)
    assert masks[[0, 1, 3, 4, 5], 2].sum() == 0 and masks.sum(1).tolist() == [3] * 6


def made(mask: str = "random") -> MaskedViewContrast:
    loss = MaskedViewContrast(mask=mask)  # pyright: ignore[reportArgumentType]
    loss._seed = 5
    return loss


def test_masks_are_a_function_of_step_and_sample():
    index = torch.tensor([3, 700_000, 12])
    masks = made().masks(index, 16, step=4)
    assert masks.sum(1).tolist() == [8, 8, 8]
    assert torch.equal(made().masks(index[[2, 0]], 16, step=4), masks[[2, 0]])
    assert not torch.equal(made().masks(index, 16, step=5), masks)
    share = made().masks(torch.arange(4000), 10, step=0).float().mean(0)
    assert bool((share - 0.5).abs().max() < 0.03)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="temperature must be positive"):
        MaskedViewContrast(temperature=0)
    with pytest.raises(ValueError, match="mask is random or correlated"):
        MaskedViewContrast(mask="row")  # pyright: ignore[reportArgumentType]
    assert float(masked_contrast(torch.randn(1, 4), torch.randn(1, 4), 0.1)) == 0  # an image alone has no negative


def test_halves_that_say_the_same_are_found(seed: int = 0):
    """The network before the projector learns to say of an image in every half which it is; with one mask for both views it need not."""
    found = {}
    for name in ("contrast", "control"):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        images = torch.randn(60, 12, generator=generator)
        network, projector = nn.Linear(12, 16), nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 8))
        optimizer = torch.optim.Adam([*network.parameters(), *projector.parameters()], lr=1e-2)
        for step in range(150):
            features = network(images)
            hidden = made().masks(torch.arange(60), 16, step)
            other = ~hidden if name == "contrast" else hidden
            loss = masked_contrast(projector(torch.where(hidden, 0.0, features)), projector(torch.where(other, 0.0, features)), 0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            features, hidden = network(images), made().masks(torch.arange(60), 16, 1000)
            first, second = (
                torch.nn.functional.normalize(projector(torch.where(mask, 0.0, features)), dim=1) for mask in (hidden, ~hidden)
            )
            found[name] = float(((first @ second.T).argmax(1) == torch.arange(60)).float().mean())
    assert found["contrast"] > 0.25 > 0.12 > found["control"], found  # chance is 1 in 60


# In a run
LOSSES = {"masked_views": {}}


@pytest.mark.parametrize("spec", [{}, {"mask": "correlated", "same_class": "ignore"}], ids=["random", "correlated"])
def test_a_run_that_goes_on_is_the_one_that_did_not_stop(spec, tmp_path):
    run, tensors = Run(partial(compose, losses={"masked_views": spec}, epochs=1)), []
    for name, kills in (("whole", (-1,)), ("cut", (1, -1))):
        for kill in kills:
            trainer = build(run, tmp_path / name, tmp_path, probes=[Kill(kill)], checkpoint_steps=1, resume="auto")
            try:
                trainer.fit()
            except _Killed:
                continue
        tensors.append(load_file(tmp_path / name / "adapters" / "session-1" / "adapter_model.safetensors"))
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert not any("masked_views" in name for name in tensors[0])  # the projector is thrown away
