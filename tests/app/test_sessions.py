from __future__ import annotations

import pytest
import torch
import two_towers
from compared_runs import write_run
from peft import get_peft_model
from PIL import Image
from trained_run import digit
from transformers import CLIPImageProcessor

from hf_cl.adapters import CPEClipConfig
from hf_cl.app.sessions import ONLY, Place, SessionModels, scores_by_name, sessions_of
from hf_cl.backbones import load_two_towers
from hf_cl.hub.load import load
from hf_cl.hub.predictions import Prediction


@pytest.fixture(scope="module")
def models(run):
    return SessionModels(sessions_of(str(run)))


def test_every_session_answers_as_its_own_adapter_does(models, run, tmp_path):
    image = digit(7, tmp_path)
    assert models.names == ["session-0", "session-1"]
    for name in ("session-1", "session-0", "session-1"):  # switched back, the first is what it was
        alone = load(run / "adapters" / name).predict([image], top_k=3)[0]
        mine = models.predict(name, Image.open(image), top_k=3)
        assert [p.name for p in mine] == [p.name for p in alone]
        assert [p.score for p in mine] == pytest.approx([p.score for p in alone], abs=1e-6)
    assert models.classes_of("session-0") == list("01234") and len(models.classes_of("session-1")) == 10


def test_class_names_as_head_follow_the_session(tmp_path):
    two_towers.base("clip").save_pretrained(tmp_path / "base")
    two_towers.tokenizer_of("clip").save_pretrained(tmp_path / "base")
    for session, names in enumerate((["w10", "w11"], ["w10", "w11", "w12"])):
        head = {"type": "text", "template": "{}.", "logit_scale": "model"}
        config = CPEClipConfig(class_names=names, init_seed=session, head=head)
        folder = tmp_path / "run" / "adapters" / f"session-{session}"
        get_peft_model(load_two_towers(str(tmp_path / "base")), config).save_pretrained(folder)
        CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(folder)
    models, image = SessionModels(sessions_of(str(tmp_path / "run"))), Image.new("RGB", (40, 40), (200, 30, 90))
    for session in ("session-0", "session-1", "session-0"):
        alone = load(tmp_path / "run" / "adapters" / session).predict([image])[0]
        mine = models.predict(session, image)
        assert [(p.name, pytest.approx(p.score, abs=1e-6)) for p in alone] == [(p.name, p.score) for p in mine]


def test_there_is_one_backbone(models):
    weights = [p for name, p in models.model.named_parameters() if name.endswith("embeddings.cls_token")]
    assert len(weights) == 1 and isinstance(weights[0], torch.Tensor)


def test_what_is_a_session(run, tmp_path):
    assert sessions_of(str(run / "adapters" / "session-0")) == {ONLY: Place(str(run / "adapters" / "session-0"))}
    empty = write_run(tmp_path / "empty")
    (empty / "adapters").mkdir()
    with pytest.raises(ValueError, match="run folder without an adapter"):
        sessions_of(str(empty))
    for name in ("session-10", "session-9", "other"):
        (empty / "adapters" / name).mkdir()
    assert list(sessions_of(str(empty))) == ["session-9", "session-10"]


def test_names_that_look_the_same_stay_two():
    shown = scores_by_name([Prediction("a\nb", 0.5), Prediction("a b", 0.3)])
    assert shown == {"a b": 0.5, "a b (another)": 0.3}
