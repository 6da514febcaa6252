"""Draws for each image: a function of seed, step and sample id alone, and uniform."""

from __future__ import annotations

import torch

from hf_cl.losses import image_uniforms, image_words


def test_an_image_has_its_draws_whatever_batch_it_is_in():
    index = torch.tensor([3, 700_000, 12])
    words = image_words(5, 4, index, 16)
    assert torch.equal(image_words(5, 4, index[[2, 0]], 16), words[[2, 0]])
    assert torch.equal(image_words(5, 4, index, 8), words[:, :8])
    assert not torch.equal(image_words(5, 5, index, 16), words) and not torch.equal(image_words(6, 4, index, 16), words)
    assert words.tolist()[0][:2] == image_words(5, 4, torch.tensor([3]), 2)[0].tolist()


def test_words_differ_and_numbers_are_uniform():
    assert len(image_words(0, 1, torch.arange(1000), 4).unique()) == 4000
    numbers = image_uniforms(0, 0, torch.arange(20_000), 5)
    assert float(numbers.min()) > 0 and float(numbers.max()) < 1
    assert (numbers.mean(0) - 0.5).abs().max() < 0.01 and (numbers.var(0) - 1 / 12).abs().max() < 0.002
    together = torch.corrcoef(torch.cat([numbers, image_uniforms(0, 1, torch.arange(20_000), 5)], 1).T)
    assert (together - torch.eye(10)).abs().max() < 0.03
