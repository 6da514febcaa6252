"""A run that is pushed at its end, from the trainer to the model after each session."""

from __future__ import annotations

from dataclasses import replace

import loop_case
import pytest
import torch
from example_run import files_of
from huggingface_hub import ModelCard
from peft import PeftModel
from tiny import images
from transformers import AutoModelForImageClassification

import hf_cl.run
from hf_cl.methods import OvorSettings

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 calls httpx2 by an old name


def test_a_run_with_push_to_hub(hub, tmp_path, monkeypatch):
    loop_case.backbone().save_pretrained(tmp_path / "base")
    hub.put("me/base", files_of(tmp_path / "base"))

    def train(settings):
        assert not hub.repositories.keys() - {"me/base"}  # checked, and nothing made yet
        trainer = loop_case.build(tmp_path / "run", sessions=2, backbone="me/base")
        trainer._backbone.name_or_path = "me/base"
        trainer.method = replace(trainer.method, title="OVOR", citation="@a{b}")
        trainer.fit()
        return trainer

    monkeypatch.setattr(hf_cl.run, "train", train)
    settings = OvorSettings(output_dir=str(tmp_path / "run"), backbone="me/base", push_to_hub="me/photos", private=True)
    results = hf_cl.run.run(settings)
    assert hub.repositories["me/photos"].private and set(hub.repositories["me/photos"].tags) == {"session-0", "session-1"}
    card = ModelCard(hub.files("me/photos")["README.md"].decode())
    assert card.data.base_model == "me/base" and "# OVOR on " in card.text and str(tmp_path) not in str(card)
    base = AutoModelForImageClassification.from_pretrained("me/base")
    there = PeftModel.from_pretrained(base, "me/photos", revision="session-0").eval()
    assert [*there.config.id2label.values()] == results.sessions[0].new_class_names
    here = PeftModel.from_pretrained(loop_case.backbone(), tmp_path / "run" / "adapters" / "session-0").eval()
    with torch.no_grad():
        assert torch.equal(there(images()).logits, here(images()).logits)
