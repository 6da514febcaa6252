"""What a prompt pool promises: whose rows an image gets, what rests, and what the query is."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import get_peft_model
from tiny import NAMES, base, images

from hf_cl.adapters import PromptPoolConfig
from hf_cl.adapters.prompt_pool.pools import L2P, Dual, orthogonal_rows
from hf_cl.backbones import classifier_of
from hf_cl.contracts import Context, Outputs
from hf_cl.losses import PromptKeys
from hf_cl.methods import DualPromptSettings, L2PSettings
from hf_cl.methods.adapt_sessions import adapt_sessions

PRODUCERS = {
    "l2p": {"pool_size": 6, "top_k": 2, "e_tokens": 2},
    "dual": {"e_tokens": 2, "g_tokens": 2},
    "coda": {"components_per_session": 2, "e_tokens": 2},
}
each = pytest.mark.parametrize("producer", PRODUCERS)


def pooled(producer: str, family: str = "vit", **kwargs):
    torch.manual_seed(0)
    config = PromptPoolConfig(producer=producer, **{**PRODUCERS[producer], "class_names": NAMES[:2], **kwargs})
    return get_peft_model(base(family), config)


def queries_of(model, pixels):
    """What the layers were told of a batch."""
    told, layer = [], model.base_model.pool_layers()[0]
    answer = layer.answer
    layer.answer = lambda query: told.append(query) or answer(query)
    model(pixels)
    return told[0]


@each
@pytest.mark.parametrize("family", ["vit", "clip_vision", "siglip_vision"])
def test_the_query_is_the_bases_own_to_the_bit(producer, family):
    plain = base(family)
    tower = plain.vit if family == "vit" else plain.vision_model
    with torch.no_grad():
        output = tower(images())
        want = output.last_hidden_state[:, 0] if family == "vit" else output.pooler_output
    model = pooled(producer, family).train()
    query = queries_of(model, images())
    assert torch.equal(query, want) and not query.requires_grad
    assert all(module.training for module in model.modules())  # it was asked in eval mode


@each
def test_two_passes_per_image_and_one_backward(producer):
    model = pooled(producer).train()
    seen = []
    model.get_base_model().vit.embeddings.register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    model(images()).logits.sum().backward()
    assert seen == [False, True]
    assert all(p.grad is None for name, p in model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("producer", ["dual", "coda"])
def test_what_earlier_sessions_trained_rests_under_decay(producer):
    model = pooled(producer).train()
    model.base_model.grow("default", NAMES[2:4])
    past = {name: tensor.clone() for name, tensor in model.named_buffers() if "prompt_pool_past" in name}
    assert past and all(len(tensor) > 0 for tensor in past.values())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for _ in range(2):
        model(images()).logits.square().sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    assert all(torch.equal(tensor, past[name]) for name, tensor in model.named_buffers() if name in past)
    assert any(not torch.equal(p, q) for p, q in zip([p for p in model.parameters() if p.requires_grad], before, strict=True))


def test_growth_keeps_entries_to_the_bit_and_loading_has_their_number():
    model = pooled("coda")
    layer = model.base_model.pool_layers()[0]
    first = layer.pool("default")
    model.base_model.grow("default", NAMES[2:4])
    model.base_model.grow("default", ())  # a session without a new class
    grown = layer.pool("default")
    assert len(grown["p"]) == 6 and all(torch.equal(grown[kind][:2], first[kind]) for kind in "pka")
    again = pooled("coda", class_names=NAMES[:4], classes_per_session=[2, 2, 0]).base_model.pool_layers()[0]
    assert {kind: rows.shape for kind, rows in again.pool("default").items()} == {kind: rows.shape for kind, rows in grown.items()}


def test_adapters_in_different_layers():
    """Growth goes by the layers that have the adapter, and what losses read is the first active one's."""
    model = pooled("dual", g_layers=[0], e_layers=[1])
    model.add_adapter("other", PromptPoolConfig(producer="l2p", e_layers=[2], pool_size=4, top_k=2, e_tokens=2))
    model.base_model.grow("default", NAMES[2:4])
    model.base_model.set_adapter(["default", "other"])
    extras = classifier_of(model).outputs(images()).extras
    assert extras["key_similarity"].shape == (4, 1, 2) and extras["chosen"].shape == (4, 1, 1)


def test_dualprompt_trains_the_newest_entry_and_chooses_by_the_query():
    query = torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    pool = {"k": torch.eye(2), "p": torch.arange(2.0)[:, None, None, None].expand(2, 2, 1, 3)}
    assert Dual(1).produce(query, pool, training=True).chosen.tolist() == [[1], [1]]
    chosen = Dual(1).produce(query, pool, training=False)
    assert chosen.chosen.tolist() == [[0], [1]] and chosen.rows[0][:, 0, 0].tolist() == [0.0, 1.0]


def test_l2p_does_not_grow():
    model = pooled("l2p")
    before = copy.deepcopy(model.base_model.pool_layers()[0].state_dict())
    model.base_model.grow("default", NAMES[2:4])
    after = model.base_model.pool_layers()[0].state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_components_than_dimensions_are_drawn_at_unit_length():
    rows = orthogonal_rows(torch.empty(0, 3), torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(rows[:3] @ rows[:3].T, torch.eye(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))
    assert orthogonal_rows(torch.zeros(1, 3), torch.randn(1, 3)).isfinite().all()


@each
def test_a_forward_without_gradient_in_between_changes_nothing(producer):
    gradients = []
    for between in (False, True):
        model = pooled(producer).train()
        model.get_base_model().activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        loss = model(images()).logits.square().sum()
        if between:
            with torch.no_grad():
                model.eval()(images(seed=9))
            model.train()
        loss.backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


def test_two_open_forwards_under_checkpointing_are_refused():
    model = pooled("coda").train()
    model.get_base_model().activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    loss = model(images()).logits.sum()
    with pytest.raises(RuntimeError, match="Call backward after each forward"):
        model(images())
    loss.backward()
    model(images()).logits.sum().backward()


def test_a_loss_reads_what_the_adapter_hands_out_once():
    model = pooled("dual").train()
    classifier = classifier_of(model)
    outputs = classifier.outputs(images())
    assert outputs.extras["key_similarity"].shape == (4, 3, 1) and outputs.extras["chosen"].shape == (4, 3, 1)
    assert model.base_model.take_extras() == {}
    loss = PromptKeys()(Context({}, (outputs,), None, 0, 0, None))
    loss.backward()
    assert all(layer.prompt_pool_k["default"].grad is not None for layer in model.base_model.pool_layers()[2:])
    assert classifier_of(pooled("coda")).outputs(images()).extras == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"producer": "duall"}, "Unknown producer 'duall'.* mean 'dual'"),
        ({"producer": "l2p", "top_k": 9, "pool_size": 4}, "more than the pool_size 4"),
        ({"producer": "coda", "top_k": 1}, "has no top_k"),
        ({"producer": "dual", "e_layers": [0]}, r"Layers \[0\] are among"),
        ({"producer": "l2p", "e_tokens": 0}, "at least 1"),
        ({"producer": "l2p", "e_layers": []}, "at least one layer"),
    ],
)
def test_configs_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PromptPoolConfig(**options)


def test_a_layer_outside_the_base_is_refused():
    with pytest.raises(ValueError, match="layers 0 to 5"):
        pooled("l2p", e_layers=[7])


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


@each
@torch.no_grad()
def test_an_export_holds_the_query_pass_and_takes_any_batch(producer):
    model = pooled(producer).eval()
    free = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(Logits(model.get_base_model()), (images(2),), dynamic_shapes=free, strict=False)
    torch.testing.assert_close(exported.module()(images(3)), model(images(3)).logits, atol=1e-5, rtol=0)


def test_unload_takes_the_query_pass_off():
    model = pooled("coda")
    plain = model.unload()
    assert not plain.vit._forward_pre_hooks and not plain.vit._forward_hooks


def test_a_resting_pool_does_not_grow():
    method = DualPromptSettings(adapt_sessions="first", head={"type": "prototype"}).method()
    assert not method.adapter.grows and L2PSettings().method().adapter.grows
    assert adapt_sessions(method, "all") is method


# Mechanisms (specification, section 8 M)
def clusters(seed: int, width: int = 16, sessions: int = 5, count: int = 40):
    """Queries of sessions: clusters around a common mean, as features of one backbone are."""
    generator = torch.Generator().manual_seed(seed)
    centres = 3.0 + torch.randn(sessions, width, generator=generator)
    labels = torch.arange(sessions).repeat_interleave(count)
    return centres[labels] + 0.3 * torch.randn(len(labels), width, generator=generator), labels


@pytest.mark.parametrize("seed", range(8))
def test_trained_keys_find_the_session_and_untrained_ones_do_not(seed):
    query, labels = clusters(seed)
    torch.manual_seed(seed)
    untrained = torch.rand(5, 16)
    trained = untrained.clone()
    for session in range(5):  # each key is pulled by the queries of its session alone
        key = trained[session].clone().requires_grad_()
        optimizer = torch.optim.Adam([key], lr=0.05)
        for _ in range(300):
            (1 - torch.nn.functional.cosine_similarity(query[labels == session], key[None])).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        trained[session] = key.detach()

    def accuracy(keys):
        chosen = Dual(1).produce(query, {"k": keys, "p": torch.zeros(5, 2, 1, 4)}, training=False).chosen[:, 0]
        return (chosen == labels).float().mean()

    assert accuracy(trained) > 0.95 and accuracy(untrained) < 0.5


def information(chosen, labels) -> float:
    """Mutual information of class and chosen prompt, in nats."""
    joint = torch.zeros(int(labels.max()) + 1, int(chosen.max()) + 1)
    for k in range(chosen.shape[1]):
        joint.index_put_((labels, chosen[:, k]), torch.ones(()), accumulate=True)
    joint = joint / joint.sum()
    return float((joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0)).clamp_min(1e-12)).clamp_min(1e-12).log()).sum())


def trained_choices(query, seed: int, over: str):
    """What a pool of the published size chooses once its keys were trained by the key loss alone."""
    torch.manual_seed(seed)
    keys, prompts = torch.rand(30, query.shape[1], requires_grad=True), torch.zeros(30, 2, 1, 4)
    optimizer, shuffle = torch.optim.Adam([keys], lr=0.02), torch.Generator().manual_seed(seed)
    producer = L2P(30, 5, 1)
    for _ in range(400):
        batch = query[torch.randperm(len(query), generator=shuffle)[:32]]
        made = producer.produce(batch, {"k": keys, "p": prompts}, training=True)
        outputs = Outputs(batch, batch, batch, {"key_similarity": made.similarity[:, None], "chosen": made.chosen[:, None]})
        PromptKeys(over=over)(Context({}, (outputs,), None, 0, 0, None)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return producer.produce(query, {"k": keys.detach(), "p": prompts}, training=False).chosen


@pytest.mark.slow
def test_prompts_say_more_of_the_image_where_each_pulls_its_own():
    gains = []
    for seed in range(8):
        query, labels = clusters(seed)
        own, pairs = (information(trained_choices(query, seed, over), labels) for over in ("images", "pairs"))
        gains.append(own - pairs)
    assert sum(gain > 0 for gain in gains) >= 7 and sum(gains) / 8 > 0.15  # 0.21 nats in the mean; one seed is a tie
