"""Words that are learned in a run: which classes get some and when, what is saved, resume, a fresh process, what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
import two_towers
from clip_runs import processor, write_base, write_photos
from processes import run as start
from safetensors.torch import load_file, save_file
from text_heads_case import WORDS_HEAD

from hf_cl import ContinualTrainer, TrainingSettings, load
from hf_cl.adapters import CPEClipConfig, GladConfig, learned_words
from hf_cl.adapters.pseudo_words import token_embedding
from hf_cl.backbones import load_tokenizer, load_two_towers
from hf_cl.methods import cpe_clip, glad
from hf_cl.scenarios import few_shot_class_incremental, open_images

NAMES = ["basalt", "quartz", "w11", "w12", "w14", "x_marble"]
CODES = ["w11", "w12", "w14"]
KEY = "base_model.model.pseudo_words.vectors"
FRESH = Path(__file__).parents[1] / "fresh_reload.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A base, and photos of six classes, three of them under codes."""
    root = tmp_path_factory.mktemp("words")
    write_base(root / "base")
    write_photos(root / "photos", names=NAMES)
    return root


def trainer(data: Path, folder: Path, head=None, kind: str = "cpe_clip", **settings) -> ContinualTrainer:
    """Sessions of 4, 1 and 1 classes, three shots in the later ones."""
    spec = dict(head or WORDS_HEAD)
    if kind == "cpe_clip":
        adapter = CPEClipConfig(head=spec, init_seed=3)
        method = cpe_clip(adapter=adapter, base_epochs=1, session_epochs=2, session_batch_size=2, loss_scope="seen")
    else:
        method = glad(adapter=GladConfig(head=spec, lora_dropout=0.0), iterations=4, session_iterations=2)
    return ContinualTrainer(
        load_two_towers(str(data / "base")),
        processor(),
        method,
        few_shot_class_incremental(open_images(str(data / "photos")), 4, 1, 3),
        TrainingSettings(output_dir=str(folder), batch_size=8, augmentation="none", cpu=True, seed=3, **settings),
        quiet=True,
        tokenizer=load_tokenizer(str(data / "base")),
    )


def vectors(folder: Path, session: int) -> torch.Tensor:
    return load_file(folder / "adapters" / f"session-{session}" / "adapter_model.safetensors")[KEY]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory) -> ContinualTrainer:
    run = trainer(data, tmp_path_factory.mktemp("whole") / "run")
    run.fit()
    return run


def test_classes_without_a_known_word_get_one_when_they_come(whole):
    folder = whole.folder
    assert list(whole.head.class_names) == NAMES
    of_session = [vectors(folder, session) for session in range(3)]
    learned = [[NAMES[c] for c, row in enumerate(rows) if not row.isnan().any()] for rows in of_session]
    assert learned == [CODES[:2], CODES, CODES] and [len(rows) for rows in of_session] == [4, 5, 6]
    assert torch.equal(of_session[0][2:4], of_session[2][2:4]), "words of earlier classes are never touched"
    images = load_file(folder / "adapters" / "session-2" / "adapter_model.safetensors")[KEY.replace("vectors", "images")]
    assert images.shape == (6, 24) and not images.isnan().any(), "of classes with a name too"
    reported = json.loads((folder / "results.json").read_text())["probes"]["pseudo_words"]
    assert set(reported) == set(CODES) and all(word in (*two_towers.STONES, "photo") for word in reported["w11"].split(", "))


def test_the_words_are_those_of_the_untouched_base(data, whole, tmp_path):
    other = trainer(data, tmp_path, kind="glad")
    other.fit()
    assert torch.equal(vectors(tmp_path, 0)[2:4], vectors(whole.folder, 0)[2:4]), "whatever the adapter, and its first values"


class Killed(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_bits(data, whole, tmp_path, monkeypatch):
    steps, step = iter(range(100)), torch.optim.SGD.step

    def dies(self, *args, **kwargs):
        if next(steps) == 6:  # in the second of four steps of session 1
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", dies)
    with pytest.raises(Killed):
        trainer(data, tmp_path, checkpoint_steps=1).fit()
    monkeypatch.undo()
    trainer(data, tmp_path, checkpoint_steps=1, resume="auto").fit()
    for session in (1, 2):
        want, found = (load_file(f / "adapters" / f"session-{session}" / "adapter_model.safetensors") for f in (whole.folder, tmp_path))
        assert want.keys() == found.keys()
        assert all(torch.equal(want[key].nan_to_num(7.0), found[key].nan_to_num(7.0)) for key in want)
    results = [json.loads((folder / "results.json").read_text()) for folder in (whole.folder, tmp_path)]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert results[0]["probes"] == results[1]["probes"]
    with pytest.raises(ValueError, match="learned_words"):
        trainer(data, tmp_path, head=WORDS_HEAD | {"learned_words": "all"}, resume="auto").fit()


def test_a_fresh_process_gives_the_same_bits(data, whole, tmp_path):
    pixels = two_towers.images()
    with torch.no_grad():
        want = whole.model.eval()(pixel_values=pixels).logits
        assert torch.equal(load(whole.folder / "adapters" / "session-2", device="cpu").logits_of(pixels), want)
    save_file({"pixels": pixels, "want": want.contiguous()}, tmp_path / "reference.safetensors")
    done = start(FRESH, data / "base", whole.folder / "adapters" / "session-2", tmp_path / "reference.safetensors", "both")
    assert done.status == 0, done.output[-2000:]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"learned_words": ["w99"]}, r"learned_words names 'w99', which is none of the classes"),
        ({"words_per_class": 20}, r"words_per_class 20 is too many: .* the model reads 24, of which 2 are kept for prompts"),
        ({"learned_words": "autos"}, r"none, auto, all or a list of class names, got 'autos'\. Did you mean 'auto'"),
        ({"words_start": "far"}, "words_start is nearest or name"),
        ({"words_lr": 0}, "words_lr is a positive number"),
        ({"words_steps": -1}, "words_steps is a whole number"),
    ],
)
def test_bad_settings_are_refused_before_anything_trains(data, tmp_path, head, message):
    with pytest.raises(ValueError, match=message):
        trainer(data, tmp_path, head=WORDS_HEAD | head)


def test_what_is_warned_of(data, whole, caplog):
    head, images = whole.head, torch.randn(6, 24)
    before = head.words.vectors.clone()
    with caplog.at_level(logging.WARNING):
        head.learn(images, torch.tensor([2, 2, 2, 2, 2, 2]), [2, 3])
    assert "The class 'w12' has no image to learn a word from; it goes by its name." in caplog.text
    assert torch.equal(head.words.vectors[3], before[3]) and not torch.equal(head.words.vectors[2], before[2])
    with caplog.at_level(logging.WARNING):
        same = torch.randn(1, 24).repeat(6, 1)
        head.spec.__dict__["words_steps"] = 0
        head.learn(same, torch.tensor([2, 2, 2, 3, 3, 3]), [2, 3])
    assert "'w11' and 'w12' ended at nearly the same text" in caplog.text
    head.words.write(range(6), before)


def test_many_texts_are_computed_in_parts(whole, monkeypatch):
    words = torch.randn(5, 1, 32, requires_grad=True)
    together = whole.head._texts_with(words)
    (want,) = torch.autograd.grad(together.square().sum(1).cumsum(0).sum() + together.sum(), words)
    monkeypatch.setattr(learned_words, "_AT_ONCE", 2)
    parts = whole.head._texts_with(words)
    (found,) = torch.autograd.grad(parts.square().sum(1).cumsum(0).sum() + parts.sum(), words)
    torch.testing.assert_close(parts, together)
    torch.testing.assert_close(found, want)


def test_a_name_may_be_where_words_begin(data, tmp_path):
    run = trainer(data, tmp_path, head=WORDS_HEAD | {"words_start": "name", "words_steps": 0, "learned_words": "all", "words_per_class": 2})
    run.fit()
    weight, vectors_now = token_embedding(run.backbone).weight, next(run.head.buffers())
    quartz = two_towers.WORDS["quartz"]
    assert torch.equal(vectors_now[1], weight[[quartz, quartz]]), "a name of one token fills both places"
