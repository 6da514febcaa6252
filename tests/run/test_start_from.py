"""A run goes on from an adapter: what that knows is session 0, which is measured and not trained."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_cl.methods import METHODS
from hf_cl.results.remarks import remarks
from hf_cl.results.results import Results
from hf_cl.run import parse_settings, run

COLOURS = {"ant": (240, 240, 240), "bee": (240, 240, 20), "cat": (220, 30, 30), "dog": (30, 220, 30), "hen": (30, 30, 220)}


def photos(root, *classes, count=5, first=0):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            noise = np.random.default_rng((number, len(name))).integers(-20, 20, (24, 24, 3))
            Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)).save(root / name / f"{number}.png")
    return root


def go(folder, dataset, method="nearest_class_mean", **more):
    settings = {"dataset": dataset, "output_dir": folder, "num_base_classes": 2, "classes_per_session": 1, "class_order": "natural"}
    settings |= {"backbone": "demo"} | more
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return run(parse_settings(METHODS[method], method, [*flags, "--cpu"]))


def adapter(folder, session):
    return load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors")


METHODS_OF_FITTED_HEADS = [
    ("nearest_class_mean", {}),
    ("frozen", {"head": "{type: gaussian}"}),
    ("frozen", {"head": "{type: gaussian, feature_map: rff, map_dim: 64}"}),
    ("frozen", {"head": "{type: ridge}"}),
]


@pytest.fixture(scope="module", params=METHODS_OF_FITTED_HEADS, ids=["prototype", "gaussian", "map", "ridge"])
def started(request, tmp_path_factory):
    """A run of three classes; the same run gone on with a fourth; and another one that starts from its adapter."""
    home, (method, more) = tmp_path_factory.mktemp("started"), request.param
    root = photos(home / "photos", "cat", "dog", "hen")
    before = go(home / "run", root, method, export_statistics=True, **more)
    shutil.copytree(home / "run", home / "resumed")
    photos(root, "ant")
    resumed = go(home / "resumed", root, method, resume="auto", export_statistics=True, **more)
    again = go(home / "new", root, method, start_from=home / "run", **more)
    return home, before, resumed, again


def test_a_fitted_head_goes_on_as_if_the_run_had(started):
    home, _, resumed, again = started
    there, here = adapter(home / "resumed", 2), adapter(home / "new", 1)
    assert there.keys() == here.keys() and all(torch.equal(there[name], here[name]) for name in there)
    assert json.loads((home / "new/adapters/session-1/adapter_config.json").read_text())["classes_per_session"] == [2, 1, 1]
    assert again.metrics["final_accuracy"] == resumed.metrics["final_accuracy"]


def test_session_0_is_the_adapter_as_it_was(started):
    home, before, _, again = started
    assert [session.new_class_names for session in again.sessions] == [["cat", "dog", "hen"], ["ant"]]
    assert [session.num_train for session in again.sessions] == [0, 4] and not again.sessions[0].trained
    assert again.metrics["session_accuracy"][0] == before.metrics["final_accuracy"] and again.test_counts == [3, 1]
    same, was = adapter(home / "new", 0), adapter(home / "run", 1)
    assert all(torch.equal(was[name], same[name]) for name in was)
    assert any("started from the adapter run" in sentence for sentence in remarks(again))
    known = [json.loads(line) for line in (home / "new" / "pictures.jsonl").read_text().splitlines()]
    assert sum(row["part"] == "train" and row["session"] == 0 for row in known) == 12 and len(known) == 20


def test_it_goes_on_without_a_picture_of_what_the_adapter_knows(tmp_path):
    go(tmp_path / "run", photos(tmp_path / "old", "cat", "dog"), export_statistics=True)
    root, flags = photos(tmp_path / "new", "ant", "bee"), {"start_from": tmp_path / "run" / "adapters" / "session-0"}
    results = go(tmp_path / "next", root, **flags)
    assert [session.new_class_names for session in results.sessions] == [["cat", "dog"], ["ant"], ["bee"]]
    assert results.accuracy_matrix == [[None], [None, 1.0], [None, 1.0, 1.0]] and results.test_counts == [0, 1, 1]
    assert results.metrics["session_accuracy"] == [None, 1.0, 1.0] and results.metrics["performance_drop"] is None
    assert results.metrics["forgetting"] == 0.0 and results.metrics["base_accuracy"] == [None] * 3
    assert Results.load(tmp_path / "next" / "results.json").metrics == results.metrics
    photos(root, "cat", first=90)
    grown = go(tmp_path / "next", root, resume="auto", session_from="new_pictures", **flags)
    assert [session.new_class_names for session in grown.sessions] == [["cat", "dog"], ["ant"], ["bee"], []]
    assert grown.sessions[3].num_train + grown.sessions[3].num_test == 5


def test_a_head_that_trains_needs_no_statistics(tmp_path):
    flags = {"method": "lora", "head": "{type: linear}", "epochs": 1, "adapt_sessions": "all", "augmentation": "none"}
    root = photos(tmp_path / "photos", "cat", "dog")
    go(tmp_path / "run", root, **flags)
    photos(root, "ant", "bee")
    results = go(tmp_path / "next", root, start_from=tmp_path / "run", **{**flags, "classes_per_session": 2})
    assert [session.trained for session in results.sessions] == [False, True]
    before, after = adapter(tmp_path / "run", 0), adapter(tmp_path / "next", 1)
    rows = next(name for name in after if name.endswith("classifier.weight"))
    assert torch.equal(after[rows][:2], before[rows]) and after[rows].shape[0] == 4
    assert any(not torch.equal(after[name], before[name]) for name in before if "lora" in name)


@pytest.fixture(scope="module")
def without_statistics(tmp_path_factory):
    home = tmp_path_factory.mktemp("plain")
    root = photos(home / "photos", "cat", "dog")
    go(home / "run", root)
    return home / "run", photos(root, "ant")


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("nearest_class_mean", {}, "has no class_statistics.safetensors, and nearest_class_mean fits its head"),
        ("frozen", {}, "'prototype', and these settings say 'gaussian': give those that it was trained with"),
        ("sara", {}, "is an adapter of type ONE_PROMPT, and sara trains SARA"),
        ("nearest_class_mean", {"backbone": "demo_clip"}, "trained on the base demo: give --backbone demo"),
        ("nearest_class_mean", {"protocol": "base_to_novel"}, "Protocol base_to_novel cannot start from an adapter"),
    ],
)
def test_what_cannot_start_from_it_says_why_before_a_picture_is_opened(without_statistics, tmp_path, method, more, message):
    folder, root = without_statistics
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "next", root, method, start_from=folder, **more)
    assert not (tmp_path / "next").exists()


def test_what_must_have_seen_session_0_says_so(without_statistics, tmp_path):
    _, root = without_statistics
    go(tmp_path / "run", root, "slca", epochs=1, augmentation="none")
    with pytest.raises(ValueError, match=r"slca cannot start from an adapter\. ClassifierAlignment: the rows before alignment"):
        go(tmp_path / "next", root, "slca", epochs=1, augmentation="none", start_from=tmp_path / "run")
