"""The loop with class names as the head: sessions, batch sizes, what is encoded, what is saved, resume."""

from __future__ import annotations

import pytest
import torch
import two_towers
from clip_runs import NAMES, processor, write_photos
from peft import PeftModel
from transformers import AutoTokenizer

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import GladConfig
from hf_cl.adapters.towers import encode_texts
from hf_cl.backbones import ClipClassifier
from hf_cl.contracts import Method
from hf_cl.methods.cpe_clip import cpe_clip
from hf_cl.methods.glad import glad
from hf_cl.scenarios import few_shot_class_incremental, open_images


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six classes of eight noisy pictures, two of each for testing."""
    return write_photos(tmp_path_factory.mktemp("photos"))


def trainer(photos, folder, method: Method, family: str = "clip", **settings) -> ContinualTrainer:
    """Sessions of 4, 1 and 1 classes, three shots in the later ones."""
    return ContinualTrainer(
        two_towers.base(family),
        processor(),
        method,
        few_shot_class_incremental(open_images(str(photos)), 4, 1, 3),
        TrainingSettings(output_dir=str(folder), batch_size=8, augmentation="none", cpu=True, seed=3, **settings),
        quiet=True,
        tokenizer=two_towers.tokenizer_of(family),
    )


@pytest.mark.parametrize("family", ["clip", "open_clip"])
def test_sessions_of_cpe_clip(family, photos, tmp_path):
    run = trainer(photos, tmp_path, cpe_clip(base_epochs=2, session_epochs=1, session_batch_size=2), family)
    results = run.fit()
    assert [list(record.new_class_names) for record in results.sessions] == [NAMES[:4], NAMES[4:5], NAMES[5:]]
    assert run.position.step == 2 * 4 + 2 + 2  # 32 images by 8, then 3 images by 2
    assert run.head.class_names == NAMES and run.head.training_classes == range(5, 6)
    last = tmp_path / "adapters" / "session-2"
    loaded = PeftModel.from_pretrained(two_towers.base(family), last).eval()
    again = ClipClassifier(loaded.get_base_model(), loaded.peft_config["default"], AutoTokenizer.from_pretrained(last)).eval()
    with torch.no_grad():
        assert torch.equal(again(two_towers.images())[1], run.classifier.eval()(two_towers.images())[1])


def test_a_loss_among_all_classes_gets_all_columns(photos, tmp_path):
    run = trainer(photos, tmp_path, cpe_clip(base_epochs=1, session_epochs=1, loss_scope="seen"))
    run.fit()
    assert run.head.training_classes is None


@pytest.mark.parametrize("rule", ["glad", "prograd"])
def test_sessions_of_glad(rule, photos, tmp_path):
    run = trainer(photos, tmp_path, glad(adapter=GladConfig(rule=rule), iterations=4, session_iterations=2))
    assert len(run.fit().sessions) == 3 and run.config.head["type"] == "text"
    moved = [p for name, p in run.named_parameters if "lora_B" in name]
    assert moved and all(p.isfinite().all() and p.abs().sum() > 0 for p in moved)


def test_evaluation_encodes_each_class_once_per_session(photos, tmp_path, monkeypatch):
    encoded: list[tuple[bool, int]] = []

    def counting(model, texts):
        encoded.append((torch.is_grad_enabled(), len(texts.input_ids)))
        return encode_texts(model, texts)

    monkeypatch.setattr("hf_cl.adapters.text_classifier.encode_texts", counting)
    method = cpe_clip(base_epochs=1, session_epochs=1, session_batch_size=3)
    trainer(photos, tmp_path, method, eval_batch_size=2).fit()
    assert [count for training, count in encoded if not training] == [4, 5, 6], "all seen classes, once, though each test is many batches"
    assert [count for training, count in encoded if training] == [4, 4, 4, 4, 1, 1], "a step encodes the session's own classes alone"


class Killed(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_bits(photos, tmp_path, monkeypatch):
    def method():
        return cpe_clip(base_epochs=2, session_epochs=2, session_batch_size=2)

    whole = trainer(photos, tmp_path / "whole", method())
    whole.fit()
    steps, step = iter(range(100)), torch.optim.SGD.step

    def dies(self, *args, **kwargs):
        if next(steps) == 11:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", dies)
    with pytest.raises(Killed):
        trainer(photos, tmp_path / "cut", method(), checkpoint_steps=1).fit()
    monkeypatch.undo()
    resumed = trainer(photos, tmp_path / "cut", method(), checkpoint_steps=1, resume="auto")
    resumed.fit()
    for (name, a), (_, b) in zip(whole.named_parameters, resumed.named_parameters, strict=True):
        assert torch.equal(a, b), name
    assert resumed.results.results.metrics == whole.results.results.metrics
