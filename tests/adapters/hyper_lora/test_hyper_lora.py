"""HYPER_LORA: what is generated, whose factors an image gets, growth, merging and stock LoRA."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import HYPER, NAMES, base, images
from torch.nn import functional as F

from hf_cl.adapters import HyperLoraConfig


def hyper(names=NAMES[:2], sizes=None, family="vit", **options):
    config = HyperLoraConfig(**{"r": 4, **HYPER, "class_names": list(names), "classes_per_session": sizes, **options})
    return get_peft_model(base(family), config)


@torch.no_grad()
def moved(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if "hyper_lora_" in name and "means" not in name:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def three_sessions(**options):
    return moved(hyper(NAMES[:6], [2, 2, 2], **options))


def logits(model):
    with torch.no_grad():
        return model(images()).logits


def test_session_0_begins_as_the_base_and_a_on_the_scale_of_lora():
    torch.manual_seed(0)
    model = hyper(r=8, hidden_size=32).eval()
    assert torch.equal(model.vit(images()).last_hidden_state, base("vit").vit(images()).last_hidden_state)
    network = model.base_model.generator("default")
    a = torch.stack([pair[0][0] for pair in network(network.embedding[None]).pairs])  # [L, r, in]
    assert 0.7 < a.std().item() * (3 * 32) ** 0.5 < 1.4


def test_the_first_layer_by_depth_and_name_holds_the_network():
    model = hyper(target_modules=["v_proj", "q_proj", "fc1"])
    config = model.peft_config["default"]
    assert config.layer_paths[:4] == [f"vit.layers.0.{m}" for m in ("attention.q_proj", "attention.v_proj", "mlp.fc1")] + [
        "vit.layers.1.attention.q_proj"
    ]
    assert len(config.layer_paths) == 18
    assert {name.rpartition(".hyper_lora_generator")[0] for name, _ in model.named_parameters() if "hyper_lora_" in name} == {
        f"base_model.model.{config.layer_paths[0]}"
    }


def test_train_mode_takes_the_newest_session_and_eval_mode_the_one_that_is_set():
    model = three_sessions(session_inference="given")
    newest = logits(model)
    each = []
    for session in range(3):
        model.base_model.set_session(session)
        each.append(logits(model))
        assert torch.allclose(logits(model.train()), newest, atol=1e-6)  # no dropout: only the session could differ
        model.eval()
    assert torch.equal(each[2], newest) and not torch.allclose(each[0], each[1], atol=1e-4)
    model.base_model.set_session(None)
    assert torch.equal(logits(model), newest)
    with pytest.raises(ValueError, match="no session 3: it was trained on sessions 0 to 2"):
        model.base_model.set_session(3)


def test_an_image_gets_the_factors_of_the_session_with_the_nearest_class():
    model = three_sessions()
    tuner = model.base_model
    queries = tuner.queries(images())
    torch.testing.assert_close(queries, base("vit").vit(images()).last_hidden_state[:, 0])  # of the untouched tower
    tuner.write_means("default", 0, torch.stack([queries[1], -queries[1], queries[0], queries[3], queries[2], -queries[2]]))
    mixed = logits(model)
    for session, mine in enumerate(([1], [0, 3], [2])):
        tuner.set_session(session)
        torch.testing.assert_close(mixed[mine], logits(model)[mine], atol=1e-6, rtol=1e-5)
    tuner.set_session(None)
    assert torch.equal(logits(model), mixed)


def test_the_newest_session_stands_in_as_long_as_no_class_has_a_mean():
    model = three_sessions()
    by_query = logits(model)
    model.base_model.set_session(2)
    torch.testing.assert_close(by_query, logits(model), atol=1e-6, rtol=1e-5)
    assert three_sessions(grows=False).base_model.generator("default").sessions == 1


@pytest.mark.parametrize("wider", [0, 3])
def test_growth_leaves_what_was_generated(wider):
    """In float64; and the shapes are those of a config that says so."""
    model = three_sessions(grow_hidden=wider).double()
    network = model.base_model.generator("default")
    before = network(network.embeddings()).pairs
    embedding = network.embedding.clone()
    model.base_model.grow("default", NAMES[6:8])
    assert torch.equal(network.past[2], embedding) and torch.equal(network.embedding, embedding)  # new_embedding: last
    after = network(network.embeddings()).pairs
    for ours, theirs in zip(after, before, strict=True):
        for new, old in zip(ours, theirs, strict=True):
            torch.testing.assert_close(new[:3], old, atol=1e-12, rtol=0)
    again = hyper(NAMES[:8], [2, 2, 2, 2], grow_hidden=wider).base_model.generator("default")
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    assert shapes["weight_hh"] == (4, 6 + 3 * wider, 6 + 3 * wider) and shapes["means"] == (8, 32)
    model(images().double()).logits.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("begin", "wanted"), [("zero", torch.zeros(4)), ("random", None)])
def test_other_beginnings_of_an_embedding(begin, wanted):
    model = three_sessions(new_embedding=begin)
    network = model.base_model.generator("default")
    before = network.embedding.clone()
    model.base_model.grow("default", ())
    assert torch.equal(network.past[-1], before) and not torch.equal(network.embedding, before)
    assert wanted is None or torch.equal(network.embedding, wanted)


def test_merging_takes_one_session():
    model = three_sessions()
    with pytest.raises(ValueError, match=r"3 sessions.*set_session"):
        model.merge_adapter()
    model.base_model.set_session(1)
    wanted = logits(model)
    weight = model.base_model.model.vit.layers[2].attention.q_proj.base_layer.weight.clone()
    model.merge_adapter()
    torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=0)
    model.unmerge_adapter()
    assert torch.equal(model.base_model.model.vit.layers[2].attention.q_proj.base_layer.weight, weight)
    assert torch.equal(logits(model), wanted)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(images()).logits, wanted, atol=1e-5, rtol=0)
    assert not merged.vit._forward_pre_hooks


def test_a_session_as_stock_lora(tmp_path):
    model = three_sessions()
    model.base_model.to_lora(tmp_path, session=1)
    model.base_model.set_session(1)
    stock = PeftModel.from_pretrained(base("vit", labels=6), tmp_path).eval()
    assert stock.peft_config["default"].peft_type == "LORA"
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no session 5"):
        model.base_model.to_lora(tmp_path, session=5)


def test_factors_of_each_image_give_the_gradient_of_each_image():
    model = three_sessions()
    tuner, network = model.base_model, model.base_model.generator("default")
    pairs = network(network.embedding[None].detach()).pairs
    own = [tuple(factor.detach().expand(4, -1, -1).clone().requires_grad_(True) for factor in pair) for pair in pairs]
    with tuner.fixed_factors("default", own):
        F.cross_entropy(model(images()).logits[:, 4:], torch.tensor([0, 1, 0, 1]), reduction="sum").backward()
    for number in range(2):
        alone = [tuple(factor.detach().clone().requires_grad_(True) for factor in pair) for pair in pairs]
        with tuner.fixed_factors("default", alone):
            F.cross_entropy(model(images()[number][None]).logits[:, 4:], torch.tensor([number])).backward()
        for (a, b), (c, d) in zip(own, alone, strict=True):
            torch.testing.assert_close(a.grad[number], c.grad[0], atol=1e-6, rtol=1e-4)
            torch.testing.assert_close(b.grad[number], d.grad[0], atol=1e-6, rtol=1e-4)


def test_another_order_of_layers_is_refused(tmp_path):
    model = hyper()
    paths = list(model.peft_config["default"].layer_paths)
    paths[3] = "vit.layers.1.attention.k_proj"
    message = re.escape("layer 3 is vit.layers.1.attention.k_proj there and vit.layers.1.attention.v_proj here")
    with pytest.raises(ValueError, match=message):
        hyper(layer_paths=paths)
    with pytest.raises(ValueError, match=r"layer 11 is .* there and none here"):
        hyper(layer_paths=model.peft_config["default"].layer_paths, target_modules=r".*(q_proj|layers\.[0-4]\..*v_proj)")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, "r must be at least 1"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"grow_hidden": -1}, "grow_hidden must be at least 0"),
        ({"session_inference": "entropy"}, "session_inference"),
        ({"new_embedding": "first"}, "new_embedding"),
        ({"layers_to_transform": [9]}, "blocks 0 to 5"),
        ({"lora_alpha": 0.0}, "lora_alpha"),
    ],
)
def test_configs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hyper(**options)


def test_unload_takes_the_hook_off_and_a_copy_is_its_own():
    model = three_sessions()
    twin = copy.deepcopy(model)
    twin.base_model.set_session(0)
    assert not torch.equal(logits(twin), logits(model))
    plain = model.unload()
    assert not plain.vit._forward_pre_hooks and not plain.vit._forward_hooks


def test_an_image_is_classified_among_the_classes_of_its_session():
    model = three_sessions(head={"type": "session_linear"})
    tuner = model.base_model
    head = tuner.head_wrapper().head("default")
    queries = tuner.queries(images())
    tuner.write_means("default", 0, torch.stack([queries[1], -queries[1], queries[0], queries[3], queries[2], -queries[2]]))
    assert [number // 2 for number in logits(model).argmax(1).tolist()] == [1, 0, 2, 1]
    tuner.set_session(0)
    assert set((logits(model).argmax(1) // 2).tolist()) == {0}
    outputs = model.train()(images()).logits  # in training all rows are what they are
    assert outputs.max() - outputs.min() < 100 and not head.given
    tuner.grow("default", ())  # a session without a new class
    tuner.grow("default", NAMES[6:8])
    tuner.set_session(4)
    assert set(logits(model.eval()).argmax(1).tolist()) <= {6, 7}
    tuner.set_session(3)  # nobody's classes come before the others
    assert (logits(model).amax(1) < -100).all()


def test_where_one_session_trains_all_classes_are_of_it():
    model = moved(hyper(NAMES[:2], [2], head={"type": "session_linear"}, grows=False))
    model.base_model.grow("default", NAMES[2:4])
    assert (logits(model) > -100).all()
