"""The text head and the classifier around a model with two towers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
import two_towers
from peft import PeftModel, get_peft_model
from two_towers import NAMES, images

from hf_cl._peft import bypassed
from hf_cl.adapters import CPEClipConfig, GladConfig
from hf_cl.adapters.towers import encode_texts
from hf_cl.backbones import ClipClassifier

everywhere = pytest.mark.parametrize("family", two_towers.FAMILIES)


def adapted(family: str = "clip", config=None) -> PeftModel:
    config = config or CPEClipConfig(class_names=list(NAMES), init_seed=1)
    return get_peft_model(two_towers.base(family), config).eval()


def classifier(model: PeftModel, family: str = "clip") -> ClipClassifier:
    return ClipClassifier(model.get_base_model(), model.peft_config["default"], two_towers.tokenizer_of(family)).eval()


@pytest.fixture
def count_encodings(monkeypatch):
    """Number of texts in each call of the text tower."""
    calls: list[int] = []

    def counting(model, texts):
        calls.append(len(texts.input_ids))
        return encode_texts(model, texts)

    monkeypatch.setattr("hf_cl.adapters.text_classifier.encode_texts", counting)
    return calls


@everywhere
def test_forward_contract(family):
    one = classifier(adapted(family), family)
    features, logits, embedding, _ = one(images())
    assert features.shape == embedding.shape and logits.shape == (4, 5)
    torch.testing.assert_close(embedding, F.normalize(features, dim=-1))
    torch.testing.assert_close(logits, 100 * embedding @ one.head.text_features(range(5)).T, atol=1e-4, rtol=0)
    assert torch.equal(one.outputs(images()).logits, logits)


@everywhere
def test_training_computes_the_named_classes_alone(family, count_encodings):
    one = classifier(adapted(family), family)
    want = one(images())[1]
    one.train().head.training_classes = range(3, 5)
    count_encodings.clear()
    logits = one(images())[1]
    assert count_encodings == [2]
    assert torch.isneginf(logits[:, :3]).all()
    torch.testing.assert_close(logits[:, 3:], want[:, 3:], atol=2e-4, rtol=0)
    F.cross_entropy(logits, torch.tensor([3, 4, 3, 4])).backward()
    assert all(p.grad.isfinite().all() for p in one.parameters() if p.requires_grad)
    one.head.training_classes = None
    assert one(images())[1].isfinite().all()
    with torch.no_grad():
        one.head.training_classes = range(3, 5)
        assert one.eval()(images())[1].isfinite().all(), "evaluation computes all classes"


@torch.no_grad()
def test_evaluation_encodes_once_until_something_changes(count_encodings):
    model = adapted()
    one = classifier(model)

    def encodings() -> int:
        before = len(count_encodings)
        one(images())
        one(images())
        return len(count_encodings) - before

    prompts = next(p for name, p in model.named_parameters() if "prompts" in name)
    assert encodings() == 1
    assert encodings() == 0
    prompts.add_(0.1)
    assert encodings() == 1
    one.train().eval()
    assert encodings() == 0
    prompts.grad = torch.ones_like(prompts)
    torch.optim.SGD([prompts], lr=0.1).step()
    assert encodings() == 1
    one.train()(images())
    torch.optim.SGD([prompts], lr=0.1, fused=True).step()  # this one leaves no trace at the tensor
    one.eval()
    assert encodings() == 1
    two_towers.grow(one, ["w30"])
    assert encodings() == 1
    one.model.vision_model.pre_layrnorm.weight.add_(0.1)
    assert encodings() == 0, "the image tower does not concern the texts"
    with bypassed(model):
        assert encodings() == 1
        prompts.add_(0.1)  # training goes on while the zero-shot state is read
        assert encodings() == 0
    assert encodings() == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert encodings() == 1
    one.head.clear_cache()
    assert encodings() == 1


@torch.no_grad()
def test_a_snapshot_has_text_features_of_its_own(count_encodings):
    model = adapted()
    one = classifier(model)
    old = {f"model.{name}": p.detach().clone() for name, p in one.model.named_parameters() if "cpe_clip_" in name}
    before = one(images())[1]
    for p in one.model.parameters():
        if p.requires_grad:
            p.add_(0.3)
    now = one(images())[1]
    assert not torch.equal(now, before)
    for _ in range(2):
        assert torch.equal(torch.func.functional_call(one, old, (images(),))[1], before)
        assert torch.equal(one(images())[1], now)
    assert len(count_encodings) == 3


def test_evaluation_with_gradients_is_not_cached(count_encodings):
    one = classifier(adapted())
    with torch.no_grad():
        one(images())
    F.cross_entropy(one(images())[1], torch.arange(4)).backward()
    prompts = next(p for name, p in one.named_parameters() if "prompts" in name)
    assert prompts.grad is not None and len(count_encodings) == 2


@torch.no_grad()
def test_merging_a_lora_is_noticed():
    model = adapted(config=GladConfig(class_names=list(NAMES), lora_dropout=0.0))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.normal_(0, 0.3)
    one = classifier(model)
    want = one(images())[1]
    model.merge_adapter()
    torch.testing.assert_close(one(images())[1], want, atol=1e-3, rtol=0)
    model.unmerge_adapter()
    torch.testing.assert_close(one(images())[1], want, atol=1e-3, rtol=0)


def test_class_names_are_tokenised_once():
    calls = []

    class Counting(type(two_towers.tokenizer())):
        def __call__(self, texts, **kwargs):
            calls.append(texts)
            return super().__call__(texts, **kwargs)

    tokens = two_towers.tokenizer()
    tokens.__class__ = Counting
    model = adapted()
    one = ClipClassifier(model.get_base_model(), model.peft_config["default"], tokens)
    one.train()(images())
    one.eval()(images())
    two_towers.grow(one, ["w30_w31"])
    one(images())
    assert calls == [["w10.", "w11 w12.", "w13.", "w14 w15 w16.", "w17."], ["w30 w31."]]


def test_growing_keeps_names_and_session_sizes():
    model = adapted()
    one, config = classifier(model), model.peft_config["default"]
    with torch.no_grad():
        before = one(images())[1]
        two_towers.grow(one, ["w30", "w31"])
        after = one(images())[1]
    torch.testing.assert_close(after[:, :5], before, atol=2e-4, rtol=0)
    assert one.head.num_classes == 7 and config.class_names == [*NAMES, "w30", "w31"] and config.classes_per_session == [5, 2]
    for names, message in ((["w10"], "the same text"), ([""], "is empty"), ([" ".join(["w10"] * 30)], "is too long")):
        with pytest.raises(ValueError, match=message):
            two_towers.grow(one, names)
        assert config.class_names == [*NAMES, "w30", "w31"], "a refused name leaves no trace"


@torch.no_grad()
def test_classes_that_are_never_taught():
    model = adapted()
    one = classifier(model)
    one.head.name_unseen(["w30", "w31"])
    assert one(images())[1].shape == (4, 7)
    assert one.head.num_classes == 5 and model.peft_config["default"].class_names == NAMES
    assert one.train()(images())[1].shape == (4, 5)
    with pytest.raises(ValueError, match="cannot grow behind them"):
        two_towers.grow(one, ["w32"])


@everywhere
def test_a_name_longer_than_the_context_is_named(family):
    bos = 0 if family in two_towers.WITHOUT_BOS else 1
    prompts = 2 if bos else 3
    most = two_towers.CONTEXT - prompts - 2 - bos  # ".", EOS
    fits, too_long = (" ".join(["w10"] * n) for n in (most, most + 1))
    one = classifier(adapted(family, CPEClipConfig(class_names=[fits])), family)
    one(images())
    model = adapted(family, CPEClipConfig(class_names=[too_long]))
    with pytest.raises(ValueError, match=rf"{too_long}.* is too long: .* the model reads 24, of which {prompts} are kept for prompts"):
        classifier(model, family)


@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.no_grad()
def test_the_models_own_scale(family):
    head = {"type": "text", "template": "{}.", "logit_scale": "model"}
    model = adapted(family, CPEClipConfig(class_names=list(NAMES), init_seed=1, head=head))
    model.get_base_model().logit_scale.fill_(1.5)
    texts = two_towers.tokenizer_of(family)(["w10.", "w11 w12.", "w13.", "w14 w15 w16.", "w17."], return_tensors="pt", padding="max_length")
    want = model(pixel_values=images(), **{k: texts[k] for k in ("input_ids", "attention_mask")}).logits_per_image
    torch.testing.assert_close(classifier(model, family)(images())[1], want, atol=1e-4, rtol=0)


def test_copies_and_the_state_dict():
    model = adapted()
    one = classifier(model)
    twin = copy.deepcopy(one)
    with torch.no_grad():
        for p in twin.parameters():
            p.add_(0.1)
        assert not torch.equal(twin(images())[1], one(images())[1])
    assert not [name for name in one.state_dict() if name.startswith("head.")], "the head has no tensors"


def test_open_clips_own_tokenizer():
    from open_clip import SimpleTokenizer
    from open_clip.model import CLIP

    text = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
    vision = {"image_size": 32, "patch_size": 8, "width": 48, "layers": 2, "head_width": 8}
    torch.manual_seed(0)
    model = get_peft_model(CLIP(embed_dim=24, vision_cfg=vision, text_cfg=text), CPEClipConfig(class_names=["pickup_truck", "crab"])).eval()
    one = ClipClassifier(model.get_base_model(), model.peft_config["default"], SimpleTokenizer(context_length=24))
    assert one(images())[1].shape == (4, 2)
    batch = one.head.tokens.batch(range(2), torch.device("cpu"))
    assert torch.equal(batch.input_ids, SimpleTokenizer()(["pickup truck.", "crab."], context_length=24))
    with pytest.raises(ValueError, match="is too long"):
        two_towers.grow(one, ["a " * 30])
