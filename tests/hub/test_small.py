"""Adapters in few bits: what is written is what is loaded, to the bit, on every route, and what cannot be is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from small_adapters import PICTURES, an_adapter, shrunk
from transformers import AutoModelForImageClassification

from hf_cl.adapters.small.arrival import CODES, SCALES
from hf_cl.hub.agreement import Judge
from hf_cl.hub.bit_budget import allocate
from hf_cl.hub.export import export
from hf_cl.hub.load import load
from hf_cl.hub.mean_adapter import write_mean

REFERENCE = Path(__file__).parents[1] / "reference" / "shrink"
FRESH = """
import sys
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification
import hf_cl

for folder in sys.argv[1:]:
    saved = load_file(f"{folder}/want.safetensors")
    small = f"{folder}/small"
    plain = lambda: AutoModelForImageClassification.from_pretrained(f"{folder}/base", num_labels=2).eval()
    same = lambda model: torch.equal(model(saved["pixels"]).logits, saved["want"])
    with torch.no_grad():
        for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
            model = PeftModel.from_pretrained(plain(), small, **options).eval()
            assert same(model), (folder, options)
            assert {t.dtype for n, t in model.named_parameters() if "modules_to_save" in n} == {torch.float32}
        assert model.peft_config["default"].small is None and not [n for n in model.state_dict() if "small" in n]
        model.load_adapter(small, "other")
        model.set_adapter("other")
        assert same(model), folder
        loaded = plain()
        loaded.load_adapter(small)
        assert same(loaded) and not [n for n in loaded.state_dict() if "small" in n], folder
        assert same(AutoModelForImageClassification.from_pretrained(small).eval()), folder
"""


@pytest.mark.slow
def test_every_type_loads_to_the_bit_in_a_fresh_process(tmp_path):
    folders = []
    for kind in tiny.ADAPTERS:
        adapter = an_adapter(tmp_path / kind, kind, **({"r": 8} if kind == "GLAD" else {}))
        made, want = shrunk(adapter, tmp_path / kind / "small", bits=4)
        assert made.bytes_after < made.bytes_before, kind
        save_file({"pixels": tiny.images(), "want": want}, tmp_path / kind / "want.safetensors")
        folders.append(str(tmp_path / kind))
    done = subprocess.run([sys.executable, "-c", FRESH, *folders], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "MISSING" not in done.stderr and "UNEXPECTED" not in done.stderr, done.stderr[-3000:]


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A SARA adapter, and the same at 4 bits."""
    folder = tmp_path_factory.mktemp("sparse")
    made, want = shrunk(an_adapter(folder, "SARA", density=0.5, target_modules=["q_proj", "fc1"]), folder / "small", bits=4)
    return folder, made, want


def plain(folder):
    return AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=2).eval()


def test_every_route_gives_what_the_codes_stand_for(sparse, caplog):
    folder, made, want = sparse
    assert made.bytes_after < 0.35 * made.bytes_before  # 8 bytes an entry before, 4 bits and a difference of positions after
    loaded = plain(folder)
    loaded.load_adapter(str(folder / "small"))
    models = [PeftModel.from_pretrained(plain(folder), folder / "small"), loaded.eval()]
    for model in models:
        with torch.no_grad():
            assert torch.equal(model.eval()(tiny.images()).logits, want)
        assert not [name for name in model.state_dict() if "small" in name]
    assert "MISSING" not in caplog.text and "UNEXPECTED" not in caplog.text.partition("LOAD REPORT from")[0]
    assert models[0].peft_config["default"].small is None


def test_positions_lose_nothing_and_values_half_a_step(sparse):
    folder, made, _ = sparse
    whole = load_file(folder / "adapter" / "adapter_model.safetensors")
    found = get_peft_model_state_dict(PeftModel.from_pretrained(plain(folder), folder / "small"), save_embedding_layers=False)
    assert found.keys() == whole.keys()
    for name, tensor in whole.items():
        if name.endswith("indices"):
            assert torch.equal(found[name], tensor), name
        elif name.endswith("values") and len(tensor) >= 256:
            step = tensor.abs().max() / 7
            assert 0 < (found[name] - tensor).abs().max() <= 0.51 * step, name
    assert made.table["vit.layers.0.mlp.fc1.sara_indices"].kind == "positions"


def test_a_loaded_one_is_an_ordinary_adapter(sparse, tmp_path):
    folder, _, want = sparse
    model = PeftModel.from_pretrained(plain(folder), folder / "small", is_trainable=True)
    model.save_pretrained(tmp_path / "again", save_embedding_layers=False)
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["small"] is None
    with torch.no_grad():
        assert torch.equal(PeftModel.from_pretrained(plain(folder), tmp_path / "again").eval()(tiny.images()).logits, want)


def test_a_budget_is_kept_and_not_worse_than_equal_bits(sparse, tmp_path):
    folder, four, _ = sparse
    mixed, _ = shrunk(folder / "adapter", tmp_path / "mixed", max_bytes=four.bytes_after + 600)
    assert mixed.bytes_after <= four.bytes_after + 600
    assert mixed.agreement.divergence <= four.agreement.divergence
    whole, _ = shrunk(folder / "adapter", tmp_path / "whole", max_bytes=10**9)
    assert {one.bits for one in whole.table.values() if one.kind == "values"} == {8}
    with pytest.raises(ValueError, match=r"With 2 bits a value the file has [\d,]+ bytes, more than the 1,000"):
        shrunk(folder / "adapter", tmp_path / "none", max_bytes=1000)


def test_a_file_that_was_tampered_with_is_refused(sparse, tmp_path):
    folder = sparse[0]

    def refused(change, message):
        shutil.rmtree(tmp_path / "small", ignore_errors=True)
        shutil.copytree(folder / "small", tmp_path / "small")
        config = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
        tensors = load_file(tmp_path / "small" / "adapter_model.safetensors")
        change(config, tensors)
        (tmp_path / "small" / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, tmp_path / "small" / "adapter_model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(plain(folder), tmp_path / "small")

    codes, scales = (f"base_model.model.sara_small.{kind}" for kind in (CODES, SCALES))
    refused(lambda c, t: t.update({codes: t[codes][:-1].clone()}), "takes sara_small.codes of shape .* and the file has")
    refused(lambda c, t: t.pop(scales), "the file has none")
    refused(lambda c, t: t[scales].fill_(float("nan")), "scales are negative or not finite")
    refused(lambda c, t: c.update(small=None), "lacks vit.layers.0.attention.q_proj.sara_indices, .* and 21 more")
    refused(lambda c, t: next(iter(c["small"].values())).update(bits=5), "which is no kind, bits and shape of a tensor")
    refused(lambda c, t: next(iter(c["small"].values())).update(kind="positions", bits=3, shape=[9]), "sara_small|no kind")
    refused(lambda c, t: t[codes].fill_(0), "not sorted and distinct")


def test_what_is_written_says_what_it_costs(sparse, tmp_path):
    folder, told = sparse[0], []
    assert export(folder / "adapter", tmp_path / "out", "small", pictures=PICTURES, keep=0.5, tell=told.append) == tmp_path / "out"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "8 bits a value" in told[0] and told[0] in card and "base_model:" in card and "bee &#60;b&#62;" in card
    assert load(tmp_path / "out").class_names[1] == "bee <b>"


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ("small", {}, "Name pictures on which predictions are compared"),
        ("small", {"pictures": PICTURES, "bits": 5}, "bits must be one of 2, 3, 4, 8, got 5"),
        ("small", {"pictures": PICTURES, "bits": 4, "max_bytes": 10}, "max_bytes chooses the bits"),
        ("small", {"pictures": PICTURES, "keep": 1.5}, "keep is a share of predictions, 0 to 1, not 1.5"),
        ("small", {"pictures": [], "bits": 4}, "There is no picture to compare"),
        ("onnx", {"bits": 4}, "bits says nothing about the form onnx"),
        ("merged", {"keep": 0.9}, "keep and pictures are for skip_blocks"),
        ("small", {"pictures": PICTURES, "skip_blocks": [1]}, "skip_blocks says nothing about the form small"),
    ],
)
def test_what_cannot_be_asked(sparse, tmp_path, form, options, message):
    with pytest.raises(ValueError, match=message):
        export(sparse[0] / "adapter", tmp_path / "out", form, **options)
    assert not (tmp_path / "out").exists()


def test_too_few_predictions_that_stay_are_refused(sparse, tmp_path, monkeypatch):
    monkeypatch.setattr(Judge, "agreement", lambda self, logits_of, most=0: type(sparse[1].agreement)(0.75, 0.2))
    with pytest.raises(
        ValueError, match=r"Only 75.0% of the predictions on 6 pictures stay the same with 4 bits a value, fewer than 99.5%"
    ):
        export(sparse[0] / "adapter", tmp_path / "out", "small", pictures=PICTURES, bits=4)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", [{"type": "gaussian"}, {"type": "ridge"}, {"type": "prototype"}], ids=lambda head: head["type"])
def test_a_fitted_head_is_what_its_file_says(tmp_path, head):
    """`export` compares to the bit. What the Gaussian head saves as its means is made for the file, and not what it computes with."""
    adapter = an_adapter(tmp_path, "GLAD", r=8, head=head, fit=True)
    export(adapter, tmp_path / "out", "small", pictures=PICTURES, keep=0.0)
    assert load(tmp_path / "out").class_names == load(adapter).class_names


def test_small_adapters_have_no_mean(tmp_path):
    folder = an_adapter(tmp_path, "GLAD", r=8)
    shrunk(folder, tmp_path / "small")
    with pytest.raises(ValueError, match=r"is a small one .*average the adapters it was made of"):
        write_mean([tmp_path / "small", folder], tmp_path / "mean")


def test_the_best_choice_of_bits_is_found():
    numbers = np.load(REFERENCE / "allocation.npz")
    sizes = numbers["sizes"][:, None] * numbers["bits"][None]
    found = allocate(sizes, numbers["cost"], float(numbers["budget_bits"]))
    assert sum(row[i] for row, i in zip(sizes, found, strict=True)) <= numbers["budget_bits"]
    assert sum(row[i] for row, i in zip(numbers["cost"], found, strict=True)) == pytest.approx(float(numbers["best_cost"]), abs=1e-12)
    sensitive = numbers["cost"] * np.where(np.arange(6) == 3, 100, 1)[:, None]
    found = allocate(sizes, sensitive, float(numbers["budget_bits"]))
    uniform = list(numbers["bits"]).index(numbers["uniform_bits"])
    assert sum(row[i] for row, i in zip(sensitive, found, strict=True)) < 0.5 * sensitive[:, uniform].sum()
    with pytest.raises(ValueError, match="below the"):
        allocate(sizes, numbers["cost"], 10)
