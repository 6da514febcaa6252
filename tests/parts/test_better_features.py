"""An adapter that did not help in session 0 is emptied, and one that did stays."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from speed_runs import build
from tiny import SIZE
from transformers import ViTConfig, ViTForImageClassification

from hf_cl.adapters import SaraConfig
from hf_cl.heads.without_some import WithoutSome
from hf_cl.methods import adapt_sessions, lora, ovor, sara
from hf_cl.methods.baselines import LoraSettings
from hf_cl.parts import better_features
from hf_cl.results.report_tables import probe_values
from hf_cl.training import SessionLoop

SHARED = {"type": "gaussian", "covariance": "shared"}
EMPTIED = {
    "LoRA": lambda: lora(epochs=1, r=4, learning_rate=0.1, head=SHARED),
    "unfrozen LoRA": lambda: lora(epochs=1, r=4, learning_rate=0.1, head=SHARED, unfreeze_from=1),
    "SaRA": lambda: sara(adapter=SaraConfig(density=0.1, head=SHARED), epochs=1),
}


@pytest.fixture
def judged(monkeypatch):
    """A judge that looks at session 0 of two classes, and finds what it is told to."""
    monkeypatch.setattr(better_features, "ENOUGH_CLASSES", 2)

    def found(trained: float, untouched: float):
        hits = iter([trained, untouched])

        def drawn(trainer, session, role=None):
            count = round(100 * next(hits))
            return torch.tensor([1.0] * count + [0.0] * (100 - count), dtype=torch.float64)

        monkeypatch.setattr(better_features, "_hits", drawn)

    return found


def features_equal_the_bases(trainer: SessionLoop) -> bool:
    data = trainer.session.train
    return torch.equal(trainer.features_of(data).features, trainer.features_of(data, role="pretrained").features)


@pytest.mark.parametrize("kind", EMPTIED)
def test_an_adapter_that_did_not_help_is_emptied_in_memory_and_in_its_file(kind, judged, tmp_path, caplog):
    judged(0.5, 0.5)
    trainer = build("LoRA", tmp_path, method=adapt_sessions(EMPTIED[kind](), "first_if_better"))
    results = trainer.fit()
    assert "The adapter is emptied" in caplog.text and "50.0 % of held-back images with it, 50.0 % without" in caplog.text
    assert results.probes["better_features"]["kept"] == "untouched"
    assert features_equal_the_bases(trainer)
    torch.manual_seed(0)
    base = ViTForImageClassification(ViTConfig(**SIZE, num_labels=0)).eval()
    pixels = torch.randn(3, 3, 32, 32)
    untouched = base.vit(pixels).last_hidden_state[:, 0]
    model = PeftModel.from_pretrained(base, str(tmp_path / "adapters" / "session-1")).eval()
    torch.testing.assert_close(base.vit(pixels).last_hidden_state[:, 0], untouched, atol=0, rtol=0)
    assert torch.equal(model(pixels).logits, trainer.model.cpu().eval()(pixels).logits)


def test_an_adapter_that_helped_stays(judged, tmp_path):
    judged(0.6, 0.4)
    trainer = build("LoRA", tmp_path, method=adapt_sessions(EMPTIED["LoRA"](), "first_if_better"))
    found = trainer.fit().probes["better_features"]
    assert found["kept"] == "trained" and found["trained"] == 0.6 and not features_equal_the_bases(trainer)
    assert found["standard_error"] == pytest.approx((0.2 * 0.8 / 99) ** 0.5)  # twenty of a hundred differ


def test_a_gain_of_no_more_than_its_standard_error_is_none(monkeypatch, tmp_path):
    hits = iter([[1] * 56 + [0] * 44, [0] * 6 + [1] * 54 + [0] * 40])  # six more right and four wrong: 0.02 +- 0.03
    monkeypatch.setattr(better_features, "ENOUGH_CLASSES", 2)
    monkeypatch.setattr(better_features, "_hits", lambda *_: torch.tensor(next(hits), dtype=torch.float64))
    trainer = build("LoRA", tmp_path, method=adapt_sessions(EMPTIED["LoRA"](), "first_if_better"))
    assert trainer.fit().probes["better_features"]["kept"] == "untouched"


def test_the_head_is_judged_on_images_that_it_was_not_fitted_to(monkeypatch, tmp_path):
    monkeypatch.setattr(better_features, "ENOUGH_CLASSES", 2)
    seen = []
    fit = WithoutSome.class_statistics

    def spied(self, session):
        store = fit(self, session)
        seen.append(len(self._rest))
        return store

    monkeypatch.setattr(WithoutSome, "class_statistics", spied)
    trainer = build("LoRA", tmp_path, train=12, method=adapt_sessions(lora(epochs=1, head=SHARED), "first_if_better"))
    found = trainer.fit().probes["better_features"]
    assert seen == [20, 20]  # of 24 images, 2 of each class's 12 are held back
    assert found["why"].startswith("held-back images of session 0, 4 of them")


def test_a_small_first_session_is_not_judged(tmp_path):
    trainer = build("LoRA", tmp_path, method=adapt_sessions(lora(epochs=1, head=SHARED), "first_if_better"))
    results = trainer.fit()
    found = results.probes["better_features"]
    assert found["kept"] == "trained" and "fewer than 30 classes" in found["why"] and not features_equal_the_bases(trainer)
    assert probe_values(results)["better_features.kept"] == "trained"


def test_a_run_that_was_killed_after_the_judgement_ends_with_the_same_bytes(judged, tmp_path, monkeypatch):
    judged(0.5, 0.5)
    method = lambda: adapt_sessions(EMPTIED["LoRA"](), "first_if_better")  # noqa: E731
    build("LoRA", tmp_path / "whole", sessions=3, method=method()).fit()
    judged(0.5, 0.5)

    def killed(self, session):
        if session.id == 1:
            raise KeyboardInterrupt
        return run(self, session)

    run = SessionLoop._run_session
    monkeypatch.setattr(SessionLoop, "_run_session", killed)
    with pytest.raises(KeyboardInterrupt):
        build("LoRA", tmp_path / "killed", sessions=3, method=method()).fit()
    monkeypatch.setattr(SessionLoop, "_run_session", run)
    build("LoRA", tmp_path / "killed", sessions=3, method=method(), resume="auto").fit()
    a, b = (load_file(tmp_path / name / "adapters" / "session-2" / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    a, b = (json.loads((tmp_path / name / "results.json").read_text())["probes"] for name in ("whole", "killed"))
    assert a == b and a["better_features"]["kept"] == "untouched"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="a linear head is trained"):
        adapt_sessions(lora(), "first_if_better")
    assert LoraSettings(head=SHARED, adapt_sessions="first_if_better").method().title == "LoRA, adapter of session 0"


def test_prefix_rows_cannot_be_emptied(tmp_path):
    method = adapt_sessions(ovor(epochs=1, vor_epochs=0, layer_tokens={0: 2}, head=SHARED), "first_if_better")
    with pytest.raises(ValueError, match="OnePromptModel has no state in which it changes nothing"):
        build("ONE_PROMPT", tmp_path, method=method).fit()
