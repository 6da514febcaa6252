"""The stage of PELA as a run, the smaller base that comes out of it, and a run of another method on that base."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from device_runs import Run, build, vit
from peft import PeftModel
from processes import result_of_two
from safetensors.torch import load_file
from stream import Stream
from transformers import ViTImageProcessor
from typer.testing import CliRunner

from hf_cl import ContinualTrainer, TrainingSettings, load
from hf_cl.adapters.low_rank_linear import ranks
from hf_cl.backbones import load_backbone
from hf_cl.cli import app
from hf_cl.methods import LoraSettings, PelaSettings
from hf_cl.methods.schedules import warmed

SETTINGS = {"epochs": 6, "learning_rate": 2e-3, "task": False, "deviation_weight": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder of the run, that of its base): two sessions, the factors trained in the first."""
    place = tmp_path_factory.mktemp("pela")
    base = place / "base"
    tower = vit(place)
    tower.save_pretrained(base)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(base)
    trainer = build(Run(lambda: PelaSettings(**SETTINGS).method(), lambda folder: load_backbone(str(base))), place / "run", place)
    trainer.fit()
    return place / "run", base


def series(folder, loss: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[f"loss_{loss}"] for line in lines if line["kind"] == "train"]


def test_the_features_come_nearer_by_distillation_without_labels(run):
    match = series(run[0], "feature_match")
    assert match[-1] < 0.7 * match[0], match
    assert series(run[0], "weight_deviation") and not (run[0] / "log.jsonl").read_text().count("cross_entropy")


def test_of_the_run_comes_a_base_with_its_factors(run, tmp_path):
    folder, base = run
    small = tmp_path / "small"
    done = CliRunner().invoke(app, ["compress", str(folder), "--output_dir", str(small)])
    assert done.exit_code == 0, done.output
    about = json.loads((small / "config.json").read_text())["hf_cl_low_rank"]
    assert about["trained"] is True and about["ratio"] == 2.0 and about["source"] == str(base)
    found, tuned = load_backbone(str(small)), load(folder)
    factors = load_file(folder / "adapters" / "session-1" / "adapter_model.safetensors")
    for name in ranks(found):
        for half in ("down", "up"):
            assert torch.equal(found.get_submodule(f"{name}.{half}").weight, factors[f"base_model.model.{name}.low_rank_{half}"])
    pixels = torch.randn(4, 3, 32, 32)
    assert torch.equal(found.vit(pixels).last_hidden_state, tuned.model.base_model.model.vit(pixels).last_hidden_state)


def test_another_method_trains_on_it_and_its_adapter_comes_back(run, tmp_path):
    folder, base = run
    small = tmp_path / "small"
    assert CliRunner().invoke(app, ["compress", str(folder), "--output_dir", str(small)]).exit_code == 0
    settings = TrainingSettings(output_dir=str(tmp_path / "lora"), backbone=str(small), batch_size=4, augmentation="none", cpu=True)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    method = LoraSettings(epochs=1, r=2).method()
    trainer = ContinualTrainer(load_backbone(str(small)), processor, method, Stream(2, train=6, test=2), settings, quiet=True)
    trainer.fit()
    pixels, adapter = torch.randn(4, 3, 32, 32), tmp_path / "lora" / "adapters" / "session-1"
    with torch.no_grad():
        want = trainer.model.eval()(pixels).logits
        assert torch.equal(load(adapter).model(pixels).logits, want)
    with pytest.raises(ValueError, match="compressed to low rank"):
        PeftModel.from_pretrained(load_backbone(str(base)), str(adapter))
    done = CliRunner().invoke(app, ["compress", str(tmp_path / "lora"), "--output_dir", str(tmp_path / "no")])
    assert done.exit_code != 0 and "of the type GLAD, which holds no factors" in " ".join(done.output.split())


def test_what_compress_refuses_of_runs(run, tmp_path):
    folder, _ = run
    done = CliRunner().invoke(app, ["compress", str(folder), "--ratio", "3", "--output_dir", str(tmp_path / "no")])
    assert done.exit_code != 0 and "leave --ratio out" in done.output and not (tmp_path / "no").exists()


def test_without_the_task_no_label_is_read():
    method = PelaSettings(task=False).method()
    (phase,) = method.phases(next(iter(Stream(1))))
    assert [term.name for term in phase.losses] == ["feature_match"]
    with pytest.raises(ValueError, match="nothing trains a linear head"):
        PelaSettings(task=False, head={"type": "linear"}).method()
    with pytest.raises(ValueError, match="Nothing is left to train by"):
        PelaSettings(task=False, feature_weight=0.0).method()
    with pytest.raises(ValueError, match="warmup_epochs"):
        PelaSettings(epochs=2, warmup_epochs=3)
    with pytest.raises(ValueError, match="needs both towers"):
        PelaSettings(head={"type": "text"}).method()


def test_the_rate_rises_by_steps_and_falls_by_a_cosine():
    schedule = warmed(1.0, 1, 5, 4)
    rates = [schedule(epoch, step)[0] for epoch in range(5) for step in range(4)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[12] == pytest.approx(0.5) and all(a > b for a, b in pairwise(rates[4:])) and rates[-1] > 0
    assert warmed(1.0, 0, 1, 2)(0, 0) == [1.0]


@pytest.mark.distributed
def test_two_processes_are_one(tmp_path):
    found = result_of_two(Path(__file__).with_name("pela_two_processes.py"), tmp_path)
    assert found["moved"] > 1e-3
    assert max(found["differences"]) < 1e-6
