"""Replayed texts: the loss by hand, texts in turn, learned words, that earlier texts stay where their images are, a run that goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import two_towers
from clip_runs import processor, write_photos
from losses.fakes import Labels
from losses.reference_net import numbers
from peft import get_peft_model
from text_heads_case import WORDS_HEAD

from hf_cl import ContinualTrainer, TrainingSettings
from hf_cl.adapters import GladConfig
from hf_cl.adapters.pseudo_words import token_embedding
from hf_cl.backbones import ClipClassifier, load_tokenizer, load_two_towers
from hf_cl.contracts import Context, FeatureSet, Session
from hf_cl.losses import TextReplay
from hf_cl.losses.text_replay import TEMPLATES
from hf_cl.methods import compose
from hf_cl.scenarios import few_shot_class_incremental, open_images

NAMES = [f"w{i}" for i in range(10, 16)]
KNOWN = 4
TWO = ("a photo of a {}.", "{} of a photo")


class Store:
    def __init__(self, means):
        self.rows = means

    def means(self, classes):
        return self.rows[list(classes)]


def trainer_of(means, own, *, head=None, seed=0):
    """A trainer in a session that brings classes 4 and 5 to four known ones, and that session; `own` [2, E]: features of an image each."""
    torch.manual_seed(seed)
    model = get_peft_model(
        two_towers.base("clip", seed), GladConfig(class_names=list(NAMES), head=head or {"type": "text"}, lora_dropout=0.0)
    )
    classifier = ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer())  # pyright: ignore
    session = Session(1, tuple(NAMES), tuple(NAMES[KNOWN:]), train=Labels([4, 5]), tests=())  # pyright: ignore
    trainer = SimpleNamespace(
        head=classifier.head,
        model=model,
        statistics=Store(means),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        features_of=lambda data: FeatureSet(own, torch.tensor([4, 5]), torch.arange(2)),
        generator_for=lambda *key: torch.Generator().manual_seed(hash(key) % 2**31),
    )
    return trainer, session


def context(session, step) -> Context:
    return Context({}, (), session, epoch=0, step=step, frozen=lambda role: None)  # pyright: ignore


def told(term: TextReplay, trainer, session) -> TextReplay:
    term.begin_session(trainer, session)
    term.begin_epoch(trainer, 0)
    return term


def test_the_loss_is_the_cross_entropy_of_texts_among_mean_images():
    means, own = torch.randn(KNOWN, 24), torch.randn(2, 24)
    trainer, session = trainer_of(means, own)
    term = told(TextReplay(ratio=3, templates=TWO), trainer, session)
    loss = term(context(session, 1))
    drawn = torch.randint(2, (6,), generator=trainer.generator_for("text_replay", 1, 1)).tolist()
    classes = [(6 + j) % KNOWN for j in range(6)]
    texts = [TWO[k].replace("{}", NAMES[c]) for k, c in zip(drawn, classes, strict=True)]
    ids = two_towers.tokenizer()(texts, return_tensors="pt", padding=True)["input_ids"]
    u = F.normalize(trainer.model.get_base_model().get_text_features(ids).pooler_output, dim=-1)
    want = F.cross_entropy(100 * u @ F.normalize(torch.cat([means, own]), dim=-1).T, torch.tensor(classes))
    torch.testing.assert_close(loss, want)
    loss.backward()
    trained = {name: p for name, p in trainer.model.named_parameters() if p.grad is not None}
    assert trained and all("text_model" in name for name in trained)
    assert torch.equal(term(context(session, 1)), loss), "pure: a rule may ask twice"


def test_classes_come_in_turn_over_the_steps(monkeypatch):
    reference = numbers("dsi_pp/01_replay_sam_events")
    trainer, session = trainer_of(torch.randn(KNOWN, 24), torch.randn(2, 24))
    term = told(TextReplay(ratio=float(reference["deal_batch"]) * float(reference["ratio"]) / 2), trainer, session)
    seen = []
    encode = term._texts.encode  # pyright: ignore
    monkeypatch.setattr(term._texts, "encode", lambda classes, templates: (seen.append(classes), encode(classes, templates))[1])
    for step in range(3):
        term(context(session, step))
    assert [torch.bincount(classes, minlength=KNOWN).tolist() for classes in seen] == reference["deal_counts"].tolist()


def test_learned_words_stand_in_every_template():
    means, own = torch.randn(KNOWN, 24), torch.randn(2, 24)
    trainer, session = trainer_of(means, own, head=WORDS_HEAD | {"learned_words": "all"})
    named, _ = trainer_of(means, own)
    embedding = token_embedding(trainer.model.get_base_model()).weight
    trainer.head.words.write(range(6), embedding[[10, 11, 12, 13, 14, 15]][:, None])
    for given in (trainer, named):
        given.loss = told(TextReplay(ratio=5, templates=(*TWO, "slate {}", "w30 {} quartz")), given, session)(context(session, 0))
    assert torch.equal(trainer.loss, named.loss)


THINGS = ["lizard", "cattle", "train", "rocket", "house", "orange", "whale", "lamb"]


def drift(seed: int, mode: str) -> float:
    """The text tower of the demo CLIP learns two new classes among themselves; how many images of eight old ones, which lie around their
    names, are told apart afterwards."""
    generator, known = torch.Generator().manual_seed(seed), len(THINGS)
    names = [*THINGS, "sku 1037", "sku 1078"]
    torch.manual_seed(seed)
    adapter = GladConfig(class_names=names, head={"type": "text", "logit_scale": "model"}, lora_dropout=0.0, r=4)
    model = get_peft_model(load_two_towers("demo_clip"), adapter)
    head: Any = ClipClassifier(model.get_base_model(), model.peft_config["default"], load_tokenizer("demo_clip")).head  # pyright: ignore
    with torch.no_grad():
        old = head.text_features(range(known)).clone()  # [8, E]
    new = F.normalize(torch.randn(2, old.shape[1], generator=generator), dim=-1)
    trainer = SimpleNamespace(
        head=head,
        statistics=Store(old if mode == "replay" else old.roll(1, 0)),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        features_of=lambda data: FeatureSet(new, torch.tensor([known, known + 1]), torch.arange(2)),
        generator_for=lambda *key: torch.Generator().manual_seed(1000 * seed + key[-1]),
    )
    session = Session(1, tuple(names), tuple(names[known:]), train=Labels([known, known + 1]), tests=())  # pyright: ignore
    term = told(TextReplay(ratio=known / 2), trainer, session)
    optimizer = torch.optim.Adam([p for name, p in model.named_parameters() if p.requires_grad and "text_model" in name], lr=0.03)
    for step in range(25):
        loss = F.cross_entropy(head.scaled(new @ head.text_features(range(known, known + 2)).T), torch.arange(2))
        if mode != "none":
            loss = loss + term(context(session, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    labels = torch.arange(known).repeat_interleave(25)
    images = F.normalize(old[labels] + 0.12 * torch.randn(len(labels), old.shape[1], generator=generator), dim=-1)
    with torch.no_grad():
        return float(((images @ head.text_features(range(known + 2)).T).argmax(1) == labels).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_replayed_texts_keep_earlier_classes_and_those_of_others_do_not(seed):
    none, replay, wrong = (drift(seed, mode) for mode in ("none", "replay", "wrong"))
    assert replay > none + 0.3 and replay > 0.9 and wrong < 0.2, (none, replay, wrong)


def test_what_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ratio must be positive, got 0"):
        TextReplay(ratio=0)
    with pytest.raises(ValueError, match=r"one \{\} each, got 'a photo'"):
        TextReplay(templates=["a photo"])
    trainer, session = trainer_of(torch.randn(KNOWN, 24), torch.randn(2, 24))
    with pytest.raises(ValueError, match=r"ratio 0\.1 draws no text in steps of 2; at least 0\.5 draws one"):
        TextReplay(ratio=0.1).begin_session(trainer, session)  # pyright: ignore
    with pytest.raises(ValueError, match="The class name 'w10' is too long"):
        TextReplay(templates=["a " * 30 + "{}"]).begin_session(trainer, session)  # pyright: ignore
    trainer.head = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"the head is a Linear: give it --head '\{type: text\}' and a base with two towers"):
        TextReplay().begin_session(trainer, session)  # pyright: ignore


class Killed(Exception):
    pass


def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch):
    photos = write_photos(tmp_path / "photos")

    def run(folder, **settings) -> ContinualTrainer:
        method = compose(
            adapter={"type": "glad", "lora_dropout": 0.0, "r": 2},
            head=dict(WORDS_HEAD),
            losses={"text_replay": {}},
            epochs=2,
            learning_rate=0.02,
        )
        options = {"batch_size": 8, "augmentation": "none", "cpu": True, "seed": 3, "checkpoint_steps": 1, **settings}
        scenario = few_shot_class_incremental(open_images(str(photos)), 4, 1, 3)
        return ContinualTrainer(
            two_towers.base("clip"), processor(), method, scenario, TrainingSettings(output_dir=str(folder), **options), quiet=True,
            tokenizer=two_towers.tokenizer(),
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    whole.fit()
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert "text_replay" in log and all(template.count("{}") == 1 for template in TEMPLATES)
    steps, step = iter(range(100)), torch.optim.Adam.step

    def dies(self, *args, **kwargs):
        if len(self.param_groups[0]["params"]) > 1 and next(steps) == 9:  # the second step of session 1; words have an optimizer too
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", dies)
    with pytest.raises(Killed):
        run(tmp_path / "cut").fit()
    monkeypatch.undo()
    resumed = run(tmp_path / "cut", resume="auto")
    resumed.fit()
    for (name, a), (_, b) in zip(whole.named_parameters, resumed.named_parameters, strict=True):
        assert torch.equal(a, b), name
