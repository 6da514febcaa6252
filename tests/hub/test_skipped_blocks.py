"""What blocks do, against reference numbers; a merged model without those that do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import get_peft_model
from small_adapters import NAMES, PICTURES, an_adapter
from transformers import AutoModelForImageClassification, ViTImageProcessor
from typer.testing import CliRunner

from hf_cl.cli import app
from hf_cl.hub.export import export
from hf_cl.hub.load import load
from hf_cl.hub.skipped_blocks import block_measures

REFERENCE = Path(__file__).parents[1] / "reference" / "shrink"


def test_measures_are_the_reference_s():
    numbers = np.load(REFERENCE / "blocks.npz")
    states = [torch.from_numpy(numbers["x"])]
    for matrix in torch.from_numpy(numbers["A"]):
        states.append(states[-1] + (states[-1] @ matrix).tanh())
    found = block_measures(states, float(numbers["atol"]), float(numbers["rtol"]))
    for name, measure in found._asdict().items():
        np.testing.assert_allclose(measure.numpy(), numbers[name], rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A GLAD adapter on a ViT whose block 3 adds 1e-3 of noise and nothing else."""
    folder = tmp_path_factory.mktemp("planted")
    base: Any = tiny.base("vit")
    with torch.no_grad():
        base.vit.embeddings.cls_token.normal_()
        for number, block in enumerate(base.vit.layers):
            for output in (block.attention.o_proj, block.mlp.fc2):
                output.weight.normal_(std=1e-4 if number == 3 else 0.3)
                output.bias.zero_()
    base.save_pretrained(folder / "base")
    model = get_peft_model(
        AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=2),
        tiny.ADAPTERS["GLAD"](class_names=NAMES, head={"type": "linear"}, target_modules=["q_proj"]),
    )
    torch.manual_seed(3)
    torch.nn.init.normal_(model.base_model.head_wrapper().head("default").weight)
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    ViTImageProcessor(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder / "adapter")
    return folder


def test_the_block_that_does_nothing_is_skipped_and_stock_transformers_loads_the_rest(planted, tmp_path):
    told: list[str] = []
    export(planted / "adapter", tmp_path / "out", skip_blocks="auto", keep=0.99, pictures=PICTURES, tell=told.append)
    assert told[0].startswith("Blocks 3 of 6 are skipped; 100.0% of the predictions on 6 pictures are the same.")
    assert "| 3 (skipped) | 100.0% |" in (tmp_path / "out" / "README.md").read_text()
    fast = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
    assert fast.config.num_hidden_layers == 5 == len(fast.vit.layers)
    whole = load(planted / "adapter", device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(fast(tiny.images()).logits, whole.logits_of(tiny.images()), atol=0.02, rtol=0)


def test_blocks_that_are_missed_stay(planted, tmp_path):
    with pytest.raises(ValueError, match=r"Without blocks 0, 1, 2 only [\d.]+% of the predictions on 6 pictures stay the same"):
        export(planted / "adapter", tmp_path / "out", skip_blocks=[0, 1, 2], keep=1.0, pictures=PICTURES)
    assert not (tmp_path / "out").exists()
    export(planted / "adapter", tmp_path / "out", skip_blocks=[1, 4], keep=0.0, pictures=PICTURES)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 4


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        ([6], r"some of the blocks 0 to 5, not all of them; got \[6\]"),
        (range(6), "not all of them"),
        ("most", "skip_blocks is auto or positions of blocks, not 'most'"),
    ],
)
def test_blocks_that_are_none(planted, tmp_path, skip, message):
    with pytest.raises(ValueError, match=message):
        export(planted / "adapter", tmp_path / "out", skip_blocks=skip, keep=0.0, pictures=PICTURES)


def test_the_command_asks_for_pictures(planted, tmp_path):
    done = CliRunner().invoke(app, ["export", str(planted / "adapter"), str(tmp_path / "out"), "--format", "small"])
    assert done.exit_code == 2 and "is in no run folder, so say which pictures" in done.output
    done = CliRunner().invoke(app, ["export", str(tmp_path / "nowhere"), str(tmp_path / "out"), "--format", "small"])
    assert done.exit_code == 2 and "There is no folder" in done.output and "pictures" not in done.output
    done = CliRunner().invoke(
        app, ["export", str(planted / "adapter"), str(tmp_path / "out"), "--skip_blocks", "a,b", "--dataset", "digits"]
    )
    assert done.exit_code == 2 and "--skip_blocks is auto or positions such as 3,4, not 'a,b'" in done.output


def test_prompts_have_blocks_that_cannot_go(tmp_path):
    adapter = an_adapter(tmp_path, "ONE_PROMPT")
    with pytest.raises(ValueError, match="ONE_PROMPT cannot be merged"):
        export(adapter, tmp_path / "out", skip_blocks="auto", pictures=PICTURES)
