"""Features in the order of their use: the reference numbers, how many are kept, and what is left of the head then."""

from __future__ import annotations

import json
import logging
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from device_runs import Run, build
from scipy.stats import chisquare
from torch import nn
from torch.nn import functional as F

import hf_cl
from hf_cl.contracts import FeatureSet, Session
from hf_cl.heads import NestedDropoutHead, build_head, check_head, fits_itself
from hf_cl.heads.kept_dimensions import curves, keep_probability, keep_sizes, logits_of_sizes, most_accurate, smallest_good_loss
from hf_cl.hub.export import export
from hf_cl.methods import frozen, lora
from hf_cl.probes import build_probes

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "nested_dropout" / "nested.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def spec(inner: str = "linear", **settings):
    return {"type": "nested_dropout", "head": {"type": inner}, **settings}


def nested(width: int, classes: int, inner: str = "linear", dtype=torch.float64, **settings) -> NestedDropoutHead:
    head = build_head(spec(inner, **settings), width, classes, dtype=dtype)
    assert isinstance(head, NestedDropoutHead)
    return head


def referred(**settings) -> NestedDropoutHead:
    head = nested(32, 4, sigma=10.0, **settings)
    head.inner.weight.data.copy_(reference("weight"))
    head.inner.bias.data.copy_(reference("bias"))  # pyright: ignore[reportCallIssue]
    return head


def close(mine: torch.Tensor, name: str) -> None:
    torch.testing.assert_close(mine, reference(name), rtol=1e-10, atol=1e-10)


def test_chances_are_the_reference():
    close(keep_sizes("gaussian", 32, 10.0, 0.1), "p_gaussian")
    close(keep_probability(keep_sizes("gaussian", 32, 10.0, 0.1)), "keep_probability")
    close(keep_sizes("uniform", 32, 10.0, 0.1), "p_uniform")
    close(keep_sizes("geometric", 32, 10.0, 0.1), "p_geometric_0_1")


def test_logits_and_losses_of_all_sizes_are_the_reference():
    head = referred()
    for k, wanted in zip(reference("ks").tolist(), reference("logits"), strict=True):
        head.drawn.fill_(k)
        torch.testing.assert_close(head(reference("features")), wanted, rtol=1e-10, atol=1e-10)
    entropy, accuracy = curves(head.inner, head.ordered(reference("features")), reference("labels"))
    close(entropy, "ce_per_k")
    close(accuracy, "accuracy_per_k")
    close((entropy * keep_sizes("gaussian", 32, 10.0, 0.1)).sum(), "expected_ce")
    assert most_accurate(accuracy) == int(reference("selected_k"))
    assert smallest_good_loss(torch.tensor([3.0, 1.005, 1.0, 1.2])) == 2


@pytest.mark.parametrize("inner", ["linear", "cosine", "prototype"])
def test_all_sizes_at_once_are_each_by_itself(inner):
    head = nested(12, 5, inner)
    features = torch.randn(7, 12, dtype=torch.float64)
    at_once = logits_of_sizes(head.inner, head.ordered(features))
    for k in (1, 5, 12):
        head.drawn.fill_(k)
        torch.testing.assert_close(at_once[k - 1], head(features), rtol=1e-9, atol=1e-9)


def test_all_dimensions_are_the_head_inside_to_the_bit_and_those_behind_get_no_gradient():
    head, features = referred(), reference("features")
    assert torch.equal(head(features), head.inner(features))  # the map begins as the identity
    head.drawn.fill_(7)
    F.cross_entropy(head(features), reference("labels")).backward()
    assert head.inner.weight.grad is not None and head.projection is not None and head.projection.grad is not None
    assert head.inner.weight.grad[:, :7].abs().min() > 0 and not head.inner.weight.grad[:, 7:].any()
    assert head.projection.grad[:7].any() and not head.projection.grad[7:].any()


class Drawing:
    """What of a trainer the head draws with."""

    def __init__(self, session: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.session = SimpleNamespace(id=session)


def test_sizes_are_drawn_as_they_should_be():
    head, trainer = nested(32, 2, sigma=10.0), Drawing()
    counts = torch.zeros(32)
    for _ in range(3_000):
        head.after_step(trainer)  # pyright: ignore[reportArgumentType]
        counts[head.drawn - 1] += 1
    expected = 3_000 * np.array(head.chances)
    tail = expected < 5
    merged = [np.append(values[~tail], values[tail].sum()) for values in (counts.numpy(), expected)]
    assert chisquare(merged[0], merged[1]).pvalue > 1e-3


def test_the_map_rests_after_session_0_whatever_a_step_does_to_it():
    head = nested(6, 2)
    assert head.projection is not None
    head.size.fill_(3)
    trainer, session = Drawing(1), Session(1, ("a", "b"), ("b",), train=None, tests=())  # pyright: ignore[reportArgumentType]
    head.begin_session(trainer, session)  # pyright: ignore[reportArgumentType]
    before = head.projection.detach().clone()
    head.projection.data += 1
    head.after_step(trainer)  # pyright: ignore[reportArgumentType]
    assert torch.equal(head.projection, before)
    assert head.drawn <= 3


@pytest.mark.parametrize(("select", "kept"), [("train_loss", 2), ("all", 6), (4, 4)])
def test_how_many_are_kept(select, kept):
    head = nested(6, 3, select=select)
    features = torch.eye(6, dtype=torch.float64)[[0, 1, 2]].repeat(4, 1)
    labels = torch.arange(3).repeat(4)
    head.inner.weight.data.zero_()
    head.inner.weight.data[0, 0] = head.inner.weight.data[1, 1] = 50.0
    head.inner.bias.data.copy_(torch.tensor([0.0, 0.0, 9.0]))  # pyright: ignore[reportCallIssue] (the third class is what is left)
    data = FeatureSet(features, labels, torch.arange(12))
    trainer = SimpleNamespace(features_of=lambda images: data)
    images: Any = object()
    head.before_statistics(trainer, Session(0, ("a", "b", "c"), ("a", "b", "c"), train=images, tests=()))  # pyright: ignore
    assert int(head.size) == kept


def test_what_cannot_be():
    with pytest.raises(ValueError, match=r"Unknown inner head type 'liner'.*Did you mean 'linear'"):
        check_head(spec("liner"))
    for settings, said in (
        ({"sigma": 0}, "sigma is a number above 0"),
        ({"q": 1.0}, "q is a number above 0 and below 1"),
        ({"select": 9}, "select is a whole number from 1 to 8"),
        ({"projection": 1}, "projection"),
        ({"head": {"type": "dkvb"}}, "Unknown inner head type 'dkvb'"),
    ):
        with pytest.raises(ValueError, match=said):
            build_head(spec() | settings, 8, 2)
    assert fits_itself(spec("gaussian")) and not fits_itself(spec())
    with pytest.raises(ValueError, match=r"frozen trains nothing"):
        frozen(spec("gaussian"))
    head = nested(6, 2, select="validation")
    trainer = SimpleNamespace(validation_of=lambda session: None)
    with pytest.raises(ValueError, match=r"say --validation_fraction 0.1"):
        head.begin_session(trainer, Session(0, ("a",), ("a",), train=None, tests=()))  # pyright: ignore


def test_a_sigma_that_trains_one_dimension_is_told(caplog):
    head = nested(8, 2, sigma=0.2)
    with caplog.at_level(logging.WARNING):
        head.begin_session(None, Session(0, ("a", "b"), ("a", "b"), train=None, tests=()))  # pyright: ignore
    assert "keeps the first dimension alone" in caplog.text


# In a run
@pytest.fixture(scope="module", params=["linear", "prototype"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    run = Run(partial(lora, epochs=2, r=4, drift_map="none", head=spec(request.param, select=5)))
    trainer = build(run, folder / "run", folder, probes=build_probes({"kept_dimensions": {}}))
    trainer.backbone.save_pretrained(folder / "base")  # pyright: ignore[reportCallIssue]
    trainer.fit()
    return folder


def test_the_report_says_how_many_it_needs(trained):
    folder = trained
    found = json.loads((folder / "run" / "results.json").read_text())["probes"]["kept_dimensions"]
    assert found["kept"] == [5, 5] and [*found["accuracy"][-1]] == ["1", "2", "4", "8", "16", "32"]
    assert all(1 <= enough <= 32 for enough in found["enough"])


def test_cut_off_it_gives_the_same_from_a_smaller_file(trained, tmp_path):
    folder = trained
    base = str(folder / "base")
    export(folder / "run", tmp_path / "small", "truncated", base_model=base)
    whole, small = (hf_cl.load(place, base_model=base, device="cpu") for place in (folder / "run", tmp_path / "small"))
    assert small.classifier.head.inner.weight.shape == (4, 5) and small.classifier.head.projection.shape == (5, 32)  # pyright: ignore
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(small.logits_of(pixels), whole.logits_of(pixels), rtol=1e-6, atol=1e-6)
    if (linear := whole.classifier.head.as_linear()) is not None:
        outputs = whole.classifier.outputs(pixels)
        torch.testing.assert_close(linear(outputs.features), outputs.logits, rtol=1e-5, atol=1e-5)
        export(folder / "run", tmp_path / "merged", "merged", base_model=base)


# The mechanism
def enough_dimensions(seed: int, ordered: bool) -> tuple[int, float]:
    """Eight classes behind a small network of width 64: the fewest dimensions with 90 % of the full accuracy, and that accuracy."""
    generator = torch.Generator().manual_seed(seed)
    means = 1.2 * torch.randn(8, 20, generator=generator)
    labels = torch.arange(8).repeat_interleave(60)
    inputs = means[labels] + 0.6 * torch.randn(480, 20, generator=generator)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64))
    head = nested(64, 8, dtype=torch.float32, sigma=16.0, projection=False)
    optimizer, trainer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=3e-3), Drawing()
    for _ in range(150):
        if ordered:
            head.after_step(trainer)  # pyright: ignore[reportArgumentType]
        optimizer.zero_grad()
        F.cross_entropy(head(network(inputs)), labels).backward()
        optimizer.step()
    with torch.no_grad():
        accuracy = curves(head.inner, network(inputs), labels)[1]
    return int((accuracy >= 0.9 * accuracy[-1]).nonzero()[0]) + 1, float(accuracy[-1])


def test_fewer_dimensions_do_and_little_is_lost():
    for seed in range(5):
        (few, with_order), (many, without) = enough_dimensions(seed, True), enough_dimensions(seed, False)
        assert few < many and with_order > without - 0.02, (seed, few, many)
