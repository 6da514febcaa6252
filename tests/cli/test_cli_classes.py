"""Classes renamed, merged and dropped without training; the adapter loads as any other."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import hf_cl
from hf_cl.adapters import HyperLoraConfig, OnePromptConfig
from hf_cl.backbones import demo_backbone
from hf_cl.hub.classes import change_classes, new_classes
from hf_cl.results.picture_record import read_pictures

NAMES = ["ant", "bee", "cat", "dog"]


def test_what_becomes_of_the_classes():
    made = new_classes(NAMES, rename={"ant": "emmet"}, merge={"pet": ("cat", "dog")}, drop=["bee"])
    assert [(new.name, new.parts) for new in made] == [("emmet", (0,)), ("pet", (2, 3))]
    made = new_classes(NAMES, rename={"ant": "bee", "bee": "ant"}, merge={"dog": ("cat", "dog")}, drop=[])
    assert [(new.name, new.parts) for new in made] == [("bee", (0,)), ("ant", (1,)), ("dog", (2, 3))]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rename": {"catt": "x"}, "drop": ["cow"]}, r"'catt' is no class of the adapter\. Did you mean 'cat'\? 'cow' is no class"),
        ({"rename": {"cat": "x"}, "drop": ["cat"]}, "'cat' is named 2 times"),
        ({"rename": {"cat": "dog"}}, "Two classes would be called 'dog'; --merge makes one of them"),
        ({"merge": {"ant": ("cat", "dog")}}, "Two classes would be called 'ant'"),
        ({"merge": {"pet": ("cat",)}}, "'pet' joins 1 class; merging takes two or more"),
        ({"drop": NAMES}, "No class would be left"),
        ({"rename": {"cat": "cat"}}, "Nothing changes"),
    ],
)
def test_changes_that_make_no_sense(changes, message):
    with pytest.raises(ValueError, match=message):
        new_classes(NAMES, **({"rename": {}, "merge": {}, "drop": []} | changes))


def test_from_the_command_line(call, trained, tmp_path):
    out, before = tmp_path / "out", hf_cl.load(trained)
    a, b, c, d, *rest = before.class_names
    changes = ["--rename", f"{a}=nought", "--merge", f"{b},{c}=pair", "--drop", d]
    result = call("classes", trained, "--output_dir", out, *changes)
    assert result.exit_code == 0, result.stderr
    after = hf_cl.load(out)
    assert after.class_names == ["nought", "pair", *rest]
    old, new = before.classifier.head.class_vectors().detach(), after.classifier.head.class_vectors().detach()
    assert torch.equal(new[[0, *range(2, len(new))]], old[[0, *range(4, len(old))]])
    counts = [sum(p.part == "train" and p.class_name == name for p in read_pictures(trained)) for name in (b, c)]
    mean = (counts[0] * old[1].double() + counts[1] * old[2].double()) / sum(counts)
    assert torch.equal(new[1], mean.float())
    card = (out / "README.md").read_text()
    assert f"{b}, {c}: merged as pair" in card and f"{d}: dropped" in card and "weighted by the pictures" in card
    stock = PeftModel.from_pretrained(AutoModelForImageClassification.from_pretrained(demo_backbone()), str(out))
    assert [*stock.config.id2label.values()] == after.class_names
    again = call("classes", trained, "--output_dir", out, *changes)
    assert again.exit_code == 2 and "exists; choose a new --output_dir" in again.stderr
    assert call("classes", trained, "--output_dir", tmp_path / "x", "--rename", "cat").exit_code == 2


ROOM = {"etf": {"num_classes_total": 6}}


HEADS = ("linear", "cosine", "prototype", "gaussian", "ridge", "kernel_ridge", "logistic", "fetril", "dkvb", "etf", "maxsim")


@pytest.mark.parametrize("head", HEADS)
def test_every_head_loses_a_class(head, tmp_path):
    config = OnePromptConfig(class_names=NAMES, classes_per_session=[2, 2], head={"type": head, **ROOM.get(head, {})})
    model = get_peft_model(tiny.base("vit"), config)
    model.save_pretrained(str(tmp_path / "old"))
    change_classes(tmp_path / "old", tmp_path / "new", drop=["ant"], rename={"dog": "hound"})
    loaded = PeftModel.from_pretrained(tiny.base("vit"), str(tmp_path / "new"))
    assert loaded.peft_config["default"].classes_per_session == [1, 2]
    assert [*loaded.config.id2label.values()] == ["bee", "cat", "hound"]
    assert loaded(pixel_values=torch.zeros(1, 3, tiny.SIDE, tiny.SIDE)).logits.shape == (1, 3)
    old, new = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("old", "new"))
    changed = [name for name in old if old[name].shape != new[name].shape]
    assert changed
    for name in old.keys() - set(changed):  # a temperature that was never fitted is NaN
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=0, equal_nan=True)
    if head in ("linear", "cosine", "prototype"):
        change_classes(tmp_path / "old", tmp_path / "merged", merge={"pet": ("cat", "dog")})
        assert json.loads((tmp_path / "merged" / "adapter_config.json").read_text())["class_names"] == ["ant", "bee", "pet"]
    else:
        message = {"gaussian": "there is no class_statistics.safetensors", "ridge": "penalty is chosen by images"}
        with pytest.raises(ValueError, match=message.get(head, f"A {head} head is not fitted to statistics of classes alone")):
            change_classes(tmp_path / "old", tmp_path / "merged", merge={"pet": ("cat", "dog")})


def test_an_adapter_with_rows_of_its_own_for_each_class(tmp_path):
    """HYPER_LORA finds an image's session by the means of classes."""
    model = get_peft_model(tiny.base("vit"), HyperLoraConfig(**tiny.HYPER, class_names=NAMES[:3], head={"type": "session_linear"}))
    tuner = model.base_model
    tuner.grow("default", NAMES[3:])
    means = torch.nn.functional.normalize(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    tuner.write_means("default", 0, means)
    model.save_pretrained(str(tmp_path / "old"))
    change_classes(tmp_path / "old", tmp_path / "new", drop=["ant"], rename={"dog": "hound"})
    loaded = PeftModel.from_pretrained(tiny.base("vit"), str(tmp_path / "new")).base_model
    network = loaded.generator("default")
    assert torch.equal(network.means, tuner.generator("default").means[1:])
    assert network.session_of.tolist() == [0, 0, 1]
    change_classes(tmp_path / "old", tmp_path / "merged", merge={"pet": ("bee", "cat")})
    merged = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    (of_classes,) = [tensor for name, tensor in merged.items() if name.endswith(".means")]
    torch.testing.assert_close(of_classes, torch.nn.functional.normalize(torch.stack([means[0], means[1] + means[2], means[3]])))
    with pytest.raises(ValueError, match="Of different sessions are cat, dog"):
        change_classes(tmp_path / "old", tmp_path / "apart", merge={"pet": ("cat", "dog")})


def test_a_merged_class_is_as_old_as_the_first_of_its_parts(tmp_path):
    model = get_peft_model(tiny.base("vit"), OnePromptConfig(class_names=NAMES[:2], head={"type": "linear", "age_scale": 0.1}))
    for name in NAMES[2:]:
        model.base_model.grow("default", [name])
    model.save_pretrained(str(tmp_path / "old"))
    change_classes(tmp_path / "old", tmp_path / "new", merge={"pet": ("bee", "dog")})
    ages = load_file(tmp_path / "new" / "adapter_model.safetensors")["base_model.model.classifier.row_sessions"]
    assert ages.tolist() == [0, 0, 1]


def _pictures(folder, classes):
    """Three training pictures of each name, one to test on, in the folder that the name is mapped to."""
    for number, (name, target) in enumerate(classes.items()):
        for i in range(4):
            pixels = np.random.default_rng((number, i)).integers(0, 60, (16, 16, 3)) + 60 * number
            place = folder / ("test" if i == 3 else "train") / target
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{name}-{i}.png")
    return folder


@pytest.mark.parametrize(
    "head",
    [
        "{type: gaussian, covariance: shared, shrinkage: 0.1, temperature: 1.0}",
        "{type: gaussian, feature_map: rff, map_dim: 32, shrinkage: 0.1, temperature: 1.0}",
        "{type: ridge, lam: 1.0}",
        "{type: ridge, lam: 1.0, class_balance: false}",
    ],
    ids=["gaussian", "map", "ridge", "unbalanced"],
)
def test_a_fitted_head_merges_as_if_the_pictures_had_had_one_name(call, tmp_path, head):
    def train(name, classes, *more):
        data, out = _pictures(tmp_path / name, classes), tmp_path / f"run-{name}"
        command = ["train", "frozen", "--config", "own_images", "--backbone", "demo", "--num_base_classes", len(set(classes.values()))]
        done = call(*command, "--head", head, "--dataset", data, "--output_dir", out, "--cpu", *more)
        assert done.exit_code == 0, done.stderr
        return out

    apart = train("apart", {"ant": "ant", "bee": "bee", "cat": "cat", "dog": "dog"}, "--export_statistics")
    joined = train("joined", {"ant": "ant", "bee": "bee", "cat": "cat", "dog": "cat"})
    result = call("classes", apart, "--merge", "cat,dog=cat", "--output_dir", tmp_path / "merged")
    assert result.exit_code == 0, result.stderr
    found, wanted = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "merged", joined / "adapters" / "session-0"))
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], atol=2e-3, rtol=1e-3, equal_nan=True)
    assert "fitted anew to the merged statistics" in (tmp_path / "merged" / "README.md").read_text()
    dropped = call("classes", apart, "--merge", "bee,cat=cat", "--drop", "dog", "--output_dir", tmp_path / "fewer")
    assert dropped.exit_code == 0 and hf_cl.load(tmp_path / "fewer").class_names == ["ant", "cat"]
