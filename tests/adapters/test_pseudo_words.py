"""Learned words in the place of class names: reference numbers, where they stand in a text, how they are saved, what is refused."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from types import SimpleNamespace

import clip_runs
import pytest
import torch
import torch.nn.functional as F
import two_towers
from losses.reference_net import numbers
from peft import PeftModel, get_peft_model
from transformers import CLIPModel

import hf_cl
from hf_cl.adapters import CPEClipConfig, GladConfig, learned_words
from hf_cl.adapters.learned_words import start_between, word_loss
from hf_cl.adapters.pseudo_words import token_embedding
from hf_cl.backbones import ClipClassifier, LearnedWordsHead, load_tokenizer, load_two_towers
from hf_cl.checkpoints.tensors import snapshot
from hf_cl.hub.classes import change_classes
from hf_cl.training.frozen import FrozenStates

N = numbers("pseudo_words/words")
HEAD = {"type": "text", "learned_words": "all"}
KINDS = {
    "CPE_CLIP": lambda names, head: CPEClipConfig(class_names=names, init_seed=1, head=head),
    "GLAD": lambda names, head: GladConfig(class_names=names, lora_dropout=0.0, head=head),
}
NAMES = ["w10", "w13", "w17"]


def adapted(family: str = "clip", kind: str = "CPE_CLIP", names=NAMES, head=HEAD, base=None) -> PeftModel:
    torch.manual_seed(7)
    model = get_peft_model(base or two_towers.base(family), KINDS[kind](list(names), dict(head)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    hf_cl.set_tokenizer(model, two_towers.tokenizer_of(family))
    return model.eval()


def head_of(model: PeftModel, family: str = "clip") -> LearnedWordsHead:
    config, tokenizer = model.peft_config["default"], two_towers.tokenizer_of(family)
    return ClipClassifier(model.get_base_model(), config, tokenizer).eval().head  # pyright: ignore


def texts(head) -> torch.Tensor:
    with torch.no_grad():
        return head.text_features(range(head.num_classes))


def test_where_a_word_begins_is_where_the_derivation_has_it():
    images = F.normalize(N["images"], dim=-1)
    found = start_between(images, N["word_text"], N["word_embedding"], k=int(N["k"]), tau=float(N["tau"]))
    assert torch.allclose(found, N["start"], atol=1e-12, rtol=0)
    twice = start_between(images, N["word_text"][[3, 3, 1]], N["word_embedding"][[3, 4, 1]], k=1)
    first = start_between(images, N["word_text"][[1, 3, 3]], N["word_embedding"][[1, 3, 4]], k=1)
    assert torch.equal(twice, first), "of equal ones the first"


def test_the_loss_and_its_gradient_are_those_of_the_derivation(monkeypatch):
    monkeypatch.setattr(learned_words, "SCALE", float(N["logit_scale"]))
    images, start = F.normalize(N["images"], dim=-1), N["start"][None, None]
    word = start.clone().requires_grad_()
    text = F.normalize(torch.tanh(word[:, 0] @ N["tower_W"].T + N["tower_b"]), dim=-1)
    cosines = images @ torch.cat([text, F.normalize(N["other_classes"], dim=-1)]).T
    loss = word_loss(cosines, torch.zeros(len(images), dtype=torch.long), word, start)
    loss.backward()
    assert torch.allclose(loss, N["loss"], atol=1e-12, rtol=0) and torch.allclose(word.grad[0, 0], N["grad"], atol=1e-12, rtol=0)


def test_a_pull_is_the_squared_distance_and_siglip_has_its_own_logits():
    cosines, labels, word = torch.eye(2), torch.tensor([0, 1]), torch.ones(1, 1, 3)
    plain = word_loss(cosines, labels, word, word)
    assert word_loss(cosines, labels, word + 2, word, pull=0.5).item() == pytest.approx(plain.item() + 0.5 * 12)
    pairs = word_loss(cosines, labels, word, word, logits=lambda cosines: 3 * cosines - 1)
    assert pairs.item() == pytest.approx(-(F.logsigmoid(torch.tensor(2.0)) + F.logsigmoid(torch.tensor(1.0))).item())


@pytest.mark.parametrize("family", two_towers.FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_embedding_of_a_token_is_that_token(kind, family):
    model = adapted(family, kind)
    head, named = head_of(model, family), texts(head_of(adapted(family, kind, head={"type": "text"}), family))
    assert torch.equal(texts(head), named), "without a word every class goes by its name"
    weight = token_embedding(model.get_base_model()).weight
    head.words.write([0, 2], weight[[13, 10]][:, None])
    assert torch.equal(texts(head), named[[1, 1, 0]]), "the first is w13 now, the last w10; the one between goes by its name"
    classifier = ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer_of(family)).eval()
    with torch.no_grad():
        assert torch.equal(model(pixel_values=two_towers.images()).logits, classifier(two_towers.images())[1])


def test_several_words_stand_in_their_order():
    head = head_of(adapted(names=["w10 w11", "w13", "w17"], head=HEAD | {"words_per_class": 2}))
    named = texts(head)
    weight = token_embedding(head._model[0]).weight
    head.words.write([1, 2], torch.stack([weight[[10, 11]], weight[[11, 10]]]))
    found = texts(head)
    assert torch.equal(found[1], named[0]) and not torch.allclose(found[2], named[0], atol=1e-3)


def test_words_are_saved_loaded_switched_copied_and_taken_out(tmp_path):
    folder = clip_runs.write_base(tmp_path / "base")
    model = adapted("clip", "GLAD", base=CLIPModel.from_pretrained(folder).eval())
    words = head_of(model).words
    words.write([1], torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(3)))
    model.save_pretrained(tmp_path / "first")
    pixels = two_towers.images()
    with torch.no_grad():
        want = model(pixel_values=pixels).logits
        by_names = adapted("clip", "GLAD", head={"type": "text"}, base=CLIPModel.from_pretrained(folder).eval())(pixel_values=pixels).logits
        assert not torch.allclose(want[:, 1], by_names[:, 1], atol=1e-2) and torch.equal(want[:, 0], by_names[:, 0])
        for options in ({}, {"low_cpu_mem_usage": True}):
            loaded = PeftModel.from_pretrained(CLIPModel.from_pretrained(folder), tmp_path / "first", **options).eval()
            assert torch.equal(loaded(pixel_values=pixels).logits, want)
        by_transformers = CLIPModel.from_pretrained(folder)
        by_transformers.load_adapter(tmp_path / "first")
        torch.testing.assert_close(by_transformers.eval()(pixel_values=pixels).logits, want, atol=1e-3, rtol=0)
        for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(again(pixel_values=pixels).logits, want)
        loaded.load_adapter(tmp_path / "first", "other")
        loaded.set_adapter("other")
        head = loaded.get_base_model().pseudo_words.modules_to_save["other"]
        assert torch.equal(loaded(pixel_values=pixels).logits, want)
        head.write([1], torch.zeros(1, 1, 32))
        assert not torch.equal(loaded(pixel_values=pixels).logits, want)
        loaded.set_adapter("default")
        assert torch.equal(loaded(pixel_values=pixels).logits, want), "the other's words are its own"
        loaded.delete_adapter("other")
        assert torch.equal(loaded(pixel_values=pixels).logits, want)
        with pytest.raises(ValueError, match="go by learned words, for which a plain model has no place"):
            loaded.merge_and_unload()
        bare = loaded.unload()
        assert "pseudo_words" not in dict(bare.named_children()) and not token_embedding(bare)._forward_hooks


def test_classes_that_are_renamed_merged_and_dropped_take_their_words_along(tmp_path):
    model = adapted("clip", "GLAD", names=["w10", "w11", "w12", "w13"])
    words = head_of(model).words
    words.write([0, 1, 3], torch.randn(3, 1, 32))
    words.remember(torch.randn(6, 24), torch.tensor([0, 1, 1, 2, 2, 3]))
    model.save_pretrained(tmp_path / "old")
    change_classes(tmp_path / "old", tmp_path / "new", rename={"w13": "w20"}, merge={"w30": ["w11", "w12"]})
    loaded = PeftModel.from_pretrained(two_towers.base("clip"), tmp_path / "new")
    found = head_of(loaded)
    assert found.class_names == ["w10", "w30", "w20"] and found.learned == {0, 2}
    assert torch.equal(found.words.vectors[[0, 2]], words.vectors[[0, 3]])
    torch.testing.assert_close(found.words.images, torch.stack([words.images[0], words.images[1:3].mean(0), words.images[3]]))


def test_new_classes_have_room_and_old_words_stay():
    model = adapted()
    head = head_of(model)
    word = torch.randn(1, 1, 32)
    head.words.write([2], word)
    before = texts(head)
    head.grow(["w20"])
    model.base_model.grow("default", ["w20"])
    assert head.words.vectors.shape == (4, 1, 32) and torch.equal(head.words.vectors[2], word[0]) and head.learned == {2}
    assert torch.allclose(texts(head)[:3], before, atol=1e-6)
    head.name_unseen(["w21"])
    with torch.no_grad():
        assert head(torch.randn(2, 24)).shape == (2, 5)


def test_new_words_are_judged_beside_the_means_of_earlier_classes():
    head = head_of(adapted(names=["w10", "w13", "w17", "w20"]))
    images = F.normalize(torch.randn(6, 24, generator=torch.Generator().manual_seed(0)), dim=-1)
    head.words.remember(images[:3], torch.tensor([1, 1, 0]))
    columns, rows, places, weights = head._judged(images[3:], torch.tensor([3, 3, 3]))
    assert columns.tolist() == [0, 1, 3], "class 2 has shown no image"
    means = F.normalize(torch.stack([images[2], images[:2].mean(0)]), dim=-1)
    torch.testing.assert_close(rows, torch.cat([images[3:], means]))
    assert places.tolist() == [2, 2, 2, 0, 1] and weights.tolist() == [1, 1, 1, 3, 3]
    cosines, word = rows[:2, :3], torch.zeros(1, 1, 2)
    losses = [word_loss(row[None], torch.tensor([0]), word, word) for row in cosines]
    weighted = word_loss(cosines, torch.tensor([0, 0]), word, word, weights=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(weighted, (losses[0] + 3 * losses[1]) / 4)


def test_a_frozen_state_keeps_its_words():
    model = adapted(kind="GLAD")
    classifier = ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer_of("clip")).eval()
    head, pixels = classifier.head, two_towers.images()
    head.words.write([0], torch.randn(1, 1, 32))
    frozen = FrozenStates(classifier, SimpleNamespace(autocast=nullcontext), model.base_model)  # pyright: ignore
    frozen.snapshots["previous"] = snapshot(model, model.base_model.prefix, head)
    with torch.no_grad():
        before = classifier(pixels)[1]
        head.grow(["w20"])
        model.base_model.grow("default", ["w20"])
        head.words.write([0, 3], torch.randn(2, 1, 32))
        for _ in range(2):
            now, then = classifier(pixels)[1], frozen.run("previous", pixels).logits
            torch.testing.assert_close(then[:, :3], before, atol=1e-4, rtol=0)
            assert not torch.allclose(now[:, 0], before[:, 0], atol=1e-2)
        named = texts(head_of(adapted(kind="GLAD", names=[*NAMES, "w20"], head={"type": "text"})))
    assert torch.allclose(then[:, 3], 100 * F.normalize(classifier(pixels)[0], dim=-1) @ named[3], atol=1e-3), "it knew no word of it"


def on_demo(names, head) -> ClipClassifier:
    model = get_peft_model(load_two_towers("demo_clip").eval(), GladConfig(class_names=list(names), head=head))
    return ClipClassifier(model.get_base_model(), model.peft_config["default"], load_tokenizer("demo_clip")).eval()


THINGS = ["lizard", "cattle", "train", "rocket", "house", "orange"]


def accuracies(seed: int, steps: int) -> dict[str, float]:
    """Of six things under codes: image embeddings around the texts of their names, 5 to learn from and 20 to test on of each."""
    generator, count = torch.Generator().manual_seed(seed), len(THINGS)
    named, codes = on_demo(THINGS, {"type": "text"}).head, [f"sku {1037 + 41 * i + seed}" for i in range(count)]
    around = texts(named)  # [C, E]
    labels = torch.arange(count).repeat_interleave(25)
    images = around[labels] + 0.12 * torch.randn(len(labels), around.shape[1], generator=generator)
    known = torch.arange(len(labels)) % 25 < 5
    head = on_demo(codes, {"type": "text", "learned_words": "auto", "words_steps": steps}).head

    @torch.no_grad()
    def accuracy(judge) -> float:
        return (judge(images[~known]).argmax(1) == labels[~known]).float().mean().item()

    def learned(given: torch.Tensor) -> float:
        head.words.write(range(count), torch.full((count, 1, 192), torch.nan))
        head.learn(images[known], given, range(count))
        return accuracy(head)

    found = {"names": accuracy(named), "codes": accuracy(head)}
    order = torch.randperm(5 * count, generator=generator)
    found |= {"shuffled": learned(labels[known][order]), "words": learned(labels[known])}
    near = head.report()
    assert set(near) == set(codes) and all(len(words.split(", ")) == 3 for words in near.values())
    return found


def check_mechanism(found: dict[str, float]) -> None:
    """Words are as good as names, codes are not, and words learned under wrong labels are worth nothing."""
    assert found["words"] > found["codes"] + 0.1 and found["words"] >= found["names"] - 0.05, found
    assert found["shuffled"] < found["words"] - 0.3, found


def test_a_coded_class_becomes_as_good_as_its_name(monkeypatch):
    monkeypatch.setattr(learned_words, "FREQUENT", 200)
    check_mechanism(accuracies(0, steps=20))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_so_it_does_in_every_seed(seed):
    check_mechanism(accuracies(seed, steps=100))


@pytest.mark.parametrize("family", two_towers.FAMILIES)
def test_the_tokens_of_a_name_are_found_in_its_text(family):
    names = ["quartz", "w11 w12 w13", "w14_w15"]
    head = head_of(adapted(family, names=names, head=HEAD | {"template": "a photo of a {} a photo .", "words_per_class": 2}), family)
    found = [head.tokens.name_ids(c) for c in range(3)]
    assert found == [[two_towers.WORDS[word] for word in name.replace("_", " ").split()] for name in names]
