"""The recipes of the text heads, from settings to results.json, on a tiny CLIP; and what opens a base."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from clip_runs import NAMES, write_base, write_photos

from hf_cl.methods import METHODS
from hf_cl.methods.cpe_clip import CpeClipSettings
from hf_cl.run import open_base, parse_settings

RECIPES = Path(__file__).parents[2] / "recipes"
SHARED = ["--batch_size=8", "--eval_batch_size=8", "--augmentation=none", "--cpu", "--num_workers=1"]
LENGTH = {"cpe_clip": ["--base_epochs=1", "--session_epochs=1"], "glad": ["--iterations=2", "--session_iterations=1"]}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Flags that name a tiny base and six classes of pictures."""
    root = tmp_path_factory.mktemp("tiny")
    return [f"--backbone={write_base(root / 'base')}", f"--dataset={write_photos(root / 'photos')}"]


def results_of(recipe: str, tmp_path: Path, flags: list[str]) -> dict:
    settings = parse_settings(METHODS[recipe], recipe, [*flags, *SHARED, *LENGTH[recipe], f"--output_dir={tmp_path}"])
    runpy.run_path(str(RECIPES / f"{recipe}.py"))["main"](settings)
    assert {"report.html", "README.md", "adapters"} <= {path.name for path in tmp_path.iterdir()}
    return json.loads((tmp_path / "results.json").read_text())


@pytest.mark.parametrize("recipe", ["cpe_clip", "glad"])
def test_base_to_novel(recipe, tiny, tmp_path):
    results = results_of(recipe, tmp_path, [*tiny, "--protocol=base_to_novel", "--shots=2"])
    (session,) = results["sessions"]
    assert session["new_class_names"] == NAMES[:3] and session["num_train"] == 6 and session["trained"]
    assert results["test_counts"] == [6, 6] and results["accuracy_matrix"] is None
    base, novel = (results["test_accuracy"][name] for name in ("base", "novel"))
    metrics = results["metrics"]
    assert (metrics["base_accuracy_within"], metrics["novel_accuracy_within"]) == (base, novel)
    assert metrics["harmonic_accuracy_within"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    config = json.loads((tmp_path / "adapters" / "session-0" / "adapter_config.json").read_text())
    assert config["class_names"] == NAMES[:3], "novel classes are named in tests alone"


@pytest.mark.parametrize("recipe", ["cpe_clip", "glad"])
def test_few_shots_in_sessions(recipe, tiny, tmp_path):
    flags = ["--protocol=few_shot_class_incremental", "--num_base_classes=2", "--classes_per_session=2", "--shots=3"]
    results = results_of(recipe, tmp_path, [*tiny, *flags])
    assert [session["num_train"] for session in results["sessions"]] == [16, 6, 6]
    assert [len(row) for row in results["accuracy_matrix"]] == [1, 2, 3] and results["test_counts"] == [4, 4, 4]
    metrics = results["metrics"]
    assert all(len(metrics[name]) == 3 for name in ("base_accuracy", "novel_accuracy", "harmonic_accuracy"))
    assert metrics["novel_accuracy"][0] is None and 0 <= metrics["novel_accuracy"][-1] <= 1


@pytest.mark.parametrize("head", ["text", "linear"])
def test_pixels_stay_as_they_are_for_bases_of_both_kinds(head, tiny):
    backbone, dataset = (flag.split("=")[1] for flag in tiny)
    settings = CpeClipSettings(
        backbone=backbone, dataset=dataset, normalize=False, num_base_classes=3, head={"type": head}, towers="vision"
    )
    model, processor, tokenizer = open_base(settings, settings.method())
    assert processor.do_normalize is False
    assert (type(model).__name__, tokenizer is None) == (("CLIPModel", False) if head == "text" else ("CLIPForImageClassification", True))
