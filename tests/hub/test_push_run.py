"""A run that is pushed at its end, from the trainer to the model after each session."""

from __future__ import annotations

import loop_case
import pytest
import torch
from example_run import files_of
from huggingface_hub import ModelCard
from peft import PeftModel
from tiny import images
from transformers import AutoModelForImageClassification

from hf_cl.methods import OvorSettings
from hf_cl.run import run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub 2.4 calls httpx2 by an old name


def test_a_run_with_push_to_hub(hub, tmp_path):
    loop_case.backbone().save_pretrained(tmp_path / "base")
    loop_case.processor().save_pretrained(tmp_path / "base")
    hub.put("me/base", files_of(tmp_path / "base"))
    small = {"epochs": 1, "vor_epochs": 0, "head": {"type": "prototype"}, "num_base_classes": 5, "classes_per_session": 5, "cpu": True}
    settings = OvorSettings(output_dir=str(tmp_path / "run"), backbone="me/base", push_to_hub="me/photos", private=True, **small)
    results = run(settings)
    assert hub.repositories["me/photos"].private and set(hub.repositories["me/photos"].tags) == {"session-0", "session-1"}
    card = ModelCard(hub.files("me/photos")["README.md"].decode())
    assert card.data.base_model == "me/base" and "# OnePrompt on digits" in card.text and str(tmp_path) not in str(card)
    base = AutoModelForImageClassification.from_pretrained("me/base")
    there = PeftModel.from_pretrained(base, "me/photos", revision="session-0").eval()
    assert [*there.config.id2label.values()] == results.sessions[0].new_class_names
    here = PeftModel.from_pretrained(loop_case.backbone(), tmp_path / "run" / "adapters" / "session-0").eval()
    with torch.no_grad():
        assert torch.equal(there(images()).logits, here(images()).logits)
