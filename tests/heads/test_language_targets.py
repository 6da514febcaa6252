"""Classes as fixed vectors of a language model: the reference numbers, and what the right words are good for."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hf_cl.backbones import reads_texts, texts_of
from hf_cl.heads import build_head
from hf_cl.heads.language_targets import LEAST_SCALE, LanguageTargetHead

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "language_targets" / "language.npz")
NAMES = ["crab", "lawn_mower", "oak_tree", "whale"]


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def head_of(targets: torch.Tensor, in_features: int, **settings) -> LanguageTargetHead:
    """float64, with raw targets [C, K, E]."""
    spec = {"type": "language_targets", "text_width": targets.shape[-1], "num_targets": targets.shape[1], **settings}
    head = build_head(spec, in_features, len(targets), dtype=torch.float64)
    assert isinstance(head, LanguageTargetHead)
    head.write_texts(F.normalize(targets, dim=-1), None)
    return head


def referred(**settings) -> LanguageTargetHead:
    head = head_of(reference("targets")[:, None], 8, scale=float(reference("eta")), **settings)
    head.projector.data.copy_(reference("projector"))
    return head


def test_logits_loss_and_gradients_are_the_reference():
    head, features = referred(), reference("features").requires_grad_()
    logits = head(features)
    loss = F.cross_entropy(logits, reference("labels"))
    loss.backward()
    assert features.grad is not None and head.projector.grad is not None and head.scale.grad is not None
    for mine, name in (
        (logits, "logits"),
        (loss, "loss"),
        (features.grad, "grad_features"),
        (head.projector.grad, "grad_projector"),
        (head.scale.grad, "grad_eta"),
    ):
        torch.testing.assert_close(mine, reference(name), rtol=1e-10, atol=1e-10)


def test_several_targets_of_a_class_are_the_reference():
    head = head_of(reference("multi_targets"), 8, scale=float(reference("eta")), tau=float(reference("multi_tau")))
    head.projector.data.copy_(reference("projector"))
    torch.testing.assert_close(head(reference("features")), reference("logits_multi"), rtol=1e-10, atol=1e-10)


def test_growth_moves_no_target_and_writes_the_new_alone():
    unit = F.normalize(reference("targets")[:, None], dim=-1)
    head = head_of(unit[:2], 8, scale=float(reference("eta")))
    head.projector.data.copy_(reference("projector"))
    torch.testing.assert_close(head(reference("features")), reference("logits_first_half"), rtol=1e-10, atol=1e-10)
    before = head.class_targets.clone()
    head.grow(["c", "d"])
    head.write_texts(torch.cat([-unit[:2], unit[2:]]), torch.zeros(5, 8))  # what the text tower says on another machine
    assert torch.equal(head.class_targets[:2], before)
    torch.testing.assert_close(head(reference("features")), reference("logits"), rtol=1e-12, atol=1e-12)


def test_nothing_but_projector_and_scale_trains_and_the_scale_stays_positive():
    head = referred()
    assert [name for name, _ in head.named_parameters()] == ["projector", "scale"]
    head.scale.data.fill_(-3.0)
    head.after_step(None)  # pyright: ignore[reportArgumentType]
    assert head.scale.item() == LEAST_SCALE


def test_the_projector_begins_where_it_means_something():
    targets = torch.eye(5, dtype=torch.float64)[:3, None]
    projection = torch.randn(5, 8, dtype=torch.float64)
    head = build_head({"type": "language_targets", "text_width": 5}, 8, 3, dtype=torch.float64)
    head.write_texts(targets, projection)
    assert torch.equal(head.projector, projection)  # type: ignore[attr-defined]
    assert torch.equal(head_of(targets, 5).projector, torch.eye(5, dtype=torch.float64))


def test_the_middle_is_that_of_session_0():
    rows = F.normalize(torch.randn(4, 1, 5, dtype=torch.float64) + 3, dim=-1)
    head = head_of(rows[:2], 5, center=True)
    head.grow(["c", "d"])
    head.write_texts(rows, None)
    torch.testing.assert_close(head.class_targets, F.normalize(rows - rows[:2].mean(0), dim=-1))
    with pytest.raises(ValueError, match="give it two classes"):
        head_of(rows[:1], 5, center=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"text_width": None}, "text_width is a whole number"),
        ({"scale": 0}, "scale is a positive number"),
        ({"aggregate": "max"}, "aggregate"),
        ({"center": 1}, "center"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        build_head({"type": "language_targets", "text_width": 5} | settings, 8, 2)


# What class names say
def spec(**settings):
    return {"type": "language_targets", **settings}


def test_targets_are_texts_of_the_named_tower():
    texts = texts_of(spec(text_model="demo_clip"), "demo", NAMES)
    assert reads_texts(spec()) and texts.projection is None
    assert texts.filled_in == {"text_width": texts.width, "num_targets": 1}
    own = texts_of(spec(pool="pooled"), "demo_clip", NAMES)
    assert torch.equal(own.rows(NAMES), texts.rows(NAMES)) and own.projection is not None
    several = texts_of(spec(template=["a photo of a {}.", "a drawing of a {}."], aggregate="lse"), "demo_clip", NAMES)
    assert several.filled_in["num_targets"] == 2
    torch.testing.assert_close(several.rows(NAMES)[:, :1], texts.rows(NAMES))
    mean = texts_of(spec(template=["a photo of a {}.", "a drawing of a {}."]), "demo_clip", NAMES)
    torch.testing.assert_close(mean.rows(NAMES)[:, 0], F.normalize(several.rows(NAMES).mean(1), dim=-1))


def test_targets_without_language_are_a_function_of_names_and_places():
    random, again = texts_of(spec(targets="random"), "demo", NAMES), texts_of(spec(targets="random"), "demo", NAMES[::-1])
    assert torch.equal(random.rows(NAMES), again.rows(NAMES))
    orthogonal = texts_of(spec(targets="orthogonal"), "demo", NAMES).rows(NAMES)[:, 0]
    torch.testing.assert_close(orthogonal @ orthogonal.T, torch.eye(4), atol=1e-5, rtol=0)


def test_targets_of_a_file(tmp_path, caplog):
    vectors = {name: torch.randn(2, 6) for name in NAMES}
    save_file(vectors, tmp_path / "targets.safetensors")
    found = texts_of(spec(targets=str(tmp_path / "targets.safetensors")), "demo", NAMES)
    assert found.filled_in == {"text_width": 6, "num_targets": 2}
    torch.testing.assert_close(found.rows(["whale"])[0], F.normalize(vectors["whale"], dim=-1))
    vectors["crab"] = vectors["whale"] * 2
    save_file(vectors, tmp_path / "twins.safetensors")
    with caplog.at_level(logging.WARNING):
        texts_of(spec(targets=str(tmp_path / "twins.safetensors")), "demo", NAMES)
    assert "1 pairs of classes have the same target, as 'crab' and 'whale'" in caplog.text


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ({"crab": torch.ones(6)}, "has no vector of 3 of 4 classes: lawn_mower, oak_tree, whale"),
        ({name: torch.zeros(6) for name in NAMES}, "'crab' is zero or no number"),
        ({name: torch.ones(5 + len(name)) for name in NAMES}, "'lawn_mower' and 'crab' differ"),
    ],
)
def test_a_file_that_will_not_do(vectors, said, tmp_path):
    save_file(vectors, tmp_path / "targets.safetensors")
    with pytest.raises(ValueError, match=said):
        texts_of(spec(targets=str(tmp_path / "targets.safetensors")), "demo", NAMES)


def test_a_base_without_words_is_told_where_to_get_some():
    with pytest.raises(ValueError, match="text_model: openai/clip-vit-base-patch32, say, or demo_clip"):
        texts_of(spec(), "demo", NAMES)
    with pytest.raises(ValueError, match="safetensors file; 'txt' is none"):
        texts_of(spec(targets="txt"), "demo", NAMES)


# The mechanism
def unseen_accuracy(seed: int, kind: str) -> float:
    """Of 8 classes that were not trained, of 20 in 5 groups: images are a linear image of their class's words, and noise."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randn(5, 32, generator=generator)
    words = F.normalize(groups[torch.arange(20) % 5] + 0.6 * torch.randn(20, 32, generator=generator), dim=1)
    means = words @ torch.randn(32, 48, generator=generator)
    labels = torch.arange(20).repeat_interleave(20)
    features = means[labels] + 0.5 * torch.randn(400, 48, generator=generator)
    targets = {
        "words": words,
        "shuffled": words[torch.randperm(20, generator=generator)],
        "random": torch.randn(20, 32, generator=generator),
    }[kind]
    torch.manual_seed(seed)
    head = build_head(spec(text_width=32), 48, 20)
    head.write_texts(F.normalize(targets, dim=1)[:, None], None)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    seen = labels < 12
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(head(features[seen])[:, :12], labels[seen]).backward()
        optimizer.step()
    with torch.no_grad():
        return float((head(features[~seen])[:, 12:].argmax(1) + 12 == labels[~seen]).float().mean())


def test_the_right_words_tell_classes_apart_that_nobody_has_taught():
    found = {kind: [unseen_accuracy(seed, kind) for seed in range(5)] for kind in ("words", "shuffled", "random")}
    means = {kind: sum(values) / 5 for kind, values in found.items()}
    assert all(right > wrong for right, wrong in zip(found["words"], found["shuffled"], strict=True))
    assert means["words"] > 0.6 and means["shuffled"] < 0.3 and means["random"] < 0.3, means
