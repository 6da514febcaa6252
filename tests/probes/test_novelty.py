""" "None of these": scores on planted strangers, a run that finds real ones, and what travels with the adapter."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from clip_runs import NAMES, write_photos
from device_runs import Kill, Run, _Killed, build, clip, text_lora

from hf_cl.memory import ClassStatistics
from hf_cl.memory.feature_prior import ProximalNetwork
from hf_cl.memory.novelty import KINDS, NOVELTY_FILE, NoveltyScore, fitted_score, read_novelty
from hf_cl.methods import METHODS, frozen, lora
from hf_cl.probes import Novelty
from hf_cl.probes.novelty import _numbers
from hf_cl.run import parse_settings, run


def planted(seed: int = 0) -> tuple[ClassStatistics, torch.Tensor, torch.Tensor]:
    """Statistics of 20 Gaussians in 16 dimensions, known images, and those of a class between them."""
    generator = torch.Generator().manual_seed(seed)
    means = 4 * torch.randn(21, 16, generator=generator, dtype=torch.float64)
    labels = torch.arange(20).repeat_interleave(30)
    statistics = ClassStatistics({"pooled", "low_rank"})
    statistics.update(means[labels] + torch.randn(600, 16, generator=generator, dtype=torch.float64), labels)
    known = means[labels[::3]] + torch.randn(200, 16, generator=generator, dtype=torch.float64)
    return statistics, known, means[20] + torch.randn(200, 16, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", [*KINDS[:-1], pytest.param("prior", marks=pytest.mark.slow)])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_class_that_was_never_taught_is_seen(kind, seed):
    statistics, known, unknown = planted(seed)
    score = fitted_score(kind, statistics, 20)
    means = statistics.means(range(20))
    logits = [-0.5 * torch.cdist(rows, means).square() for rows in (known, unknown)]
    found = _numbers(score(known, logits[0]), score(unknown, logits[1]), threshold=0.0)
    assert found["auroc"] > 0.9


def test_mahalanobis_is_the_distance_it_says():
    statistics, known, _ = planted()
    score = fitted_score("mahalanobis", statistics, 20)
    pooled = statistics.pooled_scatter() / (600 - 20)
    shrunk = 0.95 * pooled + 0.05 * pooled.trace() / 16 * torch.eye(16, dtype=torch.float64)
    off = known[:1] - statistics.means(range(20))
    wanted = (off @ torch.linalg.inv(shrunk) * off).sum(1).min().sqrt()
    torch.testing.assert_close(score(known[:1], known[:1])[0].double(), wanted, rtol=1e-5, atol=1e-5)


def test_numbers_of_scores():
    known, unknown = torch.arange(100.0), torch.tensor([200.0, 50.5, -1.0, 98.5])
    found = _numbers(known, unknown, threshold=89.5)
    assert found == {"auroc": pytest.approx((100 + 51 + 0 + 99) / 400), "caught_at_95": 0.5, "known_rejected": 0.1, "unknown_rejected": 0.5}


def test_there_and_back(tmp_path):
    statistics, known, _ = planted()
    network = ProximalNetwork.drawn(4, 8, torch.Generator().manual_seed(0)).tensors()
    prior = NoveltyScore("prior", 20, {"middle": torch.zeros(16), "projection": torch.eye(16)[:4]} | network)
    (tmp_path / NOVELTY_FILE).write_bytes(prior.to_bytes())
    again = read_novelty(tmp_path, 20)
    assert again is not None and torch.equal(again(known, known), prior(known, known))
    score = NoveltyScore("prototype", 20, fitted_score("prototype", statistics, 20).tensors, 0.25, 0.9)
    (tmp_path / NOVELTY_FILE).write_bytes(score.to_bytes())
    again = read_novelty(tmp_path, 20)
    assert again is not None and (again.threshold, again.auroc) == (0.25, 0.9)
    assert torch.equal(again(known, known), score(known, known))
    with pytest.raises(ValueError, match="of 20 classes, and the adapter has 3"):
        read_novelty(tmp_path, 3)
    (tmp_path / NOVELTY_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="cannot be read as a novelty score"):
        read_novelty(tmp_path, 20)


def test_what_cannot_be():
    with pytest.raises(ValueError, match=r"kind is prototype, mahalanobis, energy or prior, got 'knn'"):
        Novelty("knn")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="quantile lies between 0 and 1"):
        Novelty(quantile=1.0)
    with pytest.raises(ValueError, match=r"there is one alone"):
        fitted_score("energy", ClassStatistics(), 1)


# In a run
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("novelty")
    write_photos(root / "photos", NAMES, train=10, test=4)
    words = ["--backbone=demo", f"--dataset={root / 'photos'}", "--num_base_classes=2", "--classes_per_session=2", "--cpu"]
    words += ["--class_order=natural", "--augmentation=none", "--probes={novelty: {kind: mahalanobis}}", f"--output_dir={root / 'run'}"]
    run(parse_settings(METHODS["frozen"], "frozen", words))
    return root


def test_real_strangers_are_measured_before_they_are_taught(trained):
    found = json.loads((trained / "run" / "results.json").read_text())["probes"]["novelty"]
    assert [session["before_session"] for session in found["sessions"]] == [1, 2]
    assert found["auroc"] > 0.9  # greys far apart, on a line: cosines from the middle of two means would not see them
    assert "before they were taught, their test images scored above known ones" in (trained / "run" / "README.md").read_text()


def test_an_adapter_without_a_score_says_how_to_get_one(tmp_path):
    build(Run(partial(frozen, {"type": "prototype"})), tmp_path / "run", tmp_path).fit()
    assert not list((tmp_path / "run").rglob(NOVELTY_FILE))
    trainer = build(Run(partial(frozen, {"type": "prototype"})), tmp_path / "energy", tmp_path, probes=[Novelty("energy")])
    with pytest.raises(ValueError, match=r"say --validation_fraction 0\.1"):
        trainer.fit()


def test_a_run_that_goes_on_finds_the_same(tmp_path):
    made = Run(partial(lora, epochs=1, r=4, head={"type": "prototype"}))
    files = []
    for name, kills in (("whole", (-1,)), ("cut", (1, -1))):
        for kill in kills:
            trainer = build(made, tmp_path / name, tmp_path, probes=[Novelty(), Kill(kill)], checkpoint_steps=1, resume="auto")
            try:
                trainer.fit()
            except _Killed:
                continue
        files.append((tmp_path / name / "adapters" / "session-1" / NOVELTY_FILE).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("kind", ["mahalanobis"])
def test_class_names_as_head_have_scores_of_the_images_too(kind, tmp_path):
    made = Run(text_lora, clip(2), "clip")
    trainer = build(made, tmp_path / "run", tmp_path, probes=[Novelty(kind)])
    trainer.fit()
    folder = tmp_path / "run" / "adapters" / "session-1"
    score = read_novelty(folder, 4)
    assert score is not None and score.kind == kind and score.tensors["means"].shape[0] == 4
    assert [session["before_session"] for session in trainer.probes[0].report()["sessions"]] == [1]
