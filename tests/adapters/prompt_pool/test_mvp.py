"""MVP's pool and head: what chooses, what masks, and on which bases."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from peft import PeftModel, get_peft_model
from tiny import NAMES, base, images
from torch.nn import functional as F

from hf_cl.adapters import PromptPoolConfig
from hf_cl.adapters.prompt_pool.mvp import Mvp
from hf_cl.backbones import classifier_of
from hf_cl.losses import MvpLoss

FAMILIES = ("vit", "deit", "dinov2", "clip_vision")
OPTIONS = {"producer": "mvp", "pool_size": 4, "e_tokens": 3, "g_tokens": 2}
HEAD = {"type": "instance_mask", "pool_size": 4}
families = pytest.mark.parametrize("family", FAMILIES)


@torch.no_grad()
def masked(family="vit", head=HEAD, **options):
    model = get_peft_model(base(family), PromptPoolConfig(**OPTIONS, **{"class_names": NAMES[:3], "head": dict(head), **options})).eval()
    generator = torch.Generator().manual_seed(3)
    for tensor in model.parameters():
        if tensor.requires_grad:
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def logits(model):
    with torch.no_grad():
        return model(images()).logits


@families
def test_on_each_base(family, tmp_path):
    """Gradients reach what trains, one image does not depend on its batch, off is the base, and a file gives the same bits."""
    model = masked(family).train()
    F.cross_entropy(model(images()).logits, torch.arange(4) % 3).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert [name.rsplit(".", 2)[-2] for name in without] == ["prompt_pool_k"]  # keys learn by their own loss
    together = logits(model.eval())
    alone = torch.cat([model(image[None]).logits for image in images()])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(base(family)))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(family), tmp_path)), together)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(logits(twin), together)


@pytest.mark.parametrize("family", ["siglip_vision"])
def test_where_there_is_no_class_token(family):
    with pytest.raises(ValueError, match="class token inside"):
        masked(family)


def test_a_mask_of_zero_is_the_linear_head_to_the_bit():
    model, plain = masked(), masked(head={"type": "linear"})
    plain.load_state_dict({name: tensor for name, tensor in model.state_dict().items() if not name.endswith(".mask")})
    before = logits(model)
    model.base_model.head_wrapper().head("default").mask.data.zero_()
    assert torch.equal(logits(model), logits(plain)) and not torch.equal(before, logits(plain))


def test_an_entry_s_mask_learns_from_the_images_that_chose_it():
    model = masked().train()
    outputs = classifier_of(model).outputs(images(8))
    outputs.logits.square().sum().backward()
    chosen = set(outputs.extras["chosen"].flatten().tolist())
    head = model.base_model.head_wrapper().head("default")
    moved = {entry for entry in range(4) if head.mask.grad[:, entry].any()}
    assert moved == chosen and 0 < len(chosen) < 4
    assert not head.given  # called alone it knows nothing
    features = outputs.features.detach()
    assert torch.equal(head(features), F.linear(features, head.weight, head.bias))


def test_several_entries_of_an_image_are_believed_by_their_mean():
    head = masked(top_k=2).base_model.head_wrapper().head("default")
    wanted = 2 * ((head.mask[:, 0] + head.mask[:, 3]) / 2).sigmoid()
    torch.testing.assert_close(head.believed(torch.tensor([[0, 3]]))[0], wanted)
    assert logits(masked(top_k=2)).isfinite().all()


def test_the_head_grows_with_rows_of_minus_one_and_nothing_else_does():
    model = masked()
    before, state = logits(model), copy.deepcopy(model.base_model.pool_layers()[2].state_dict())
    model.base_model.grow("default", NAMES[3:5])
    assert model.base_model.head_wrapper().head("default").mask[3:].tolist() == [[-1.0] * 4] * 2
    torch.testing.assert_close(logits(model)[:, :3], before)
    after = model.base_model.pool_layers()[2].state_dict()
    assert all(torch.equal(state[name], after[name]) for name in state)


@pytest.mark.parametrize("seed", range(3))
def test_counts_spread_the_choice(seed):
    """Five clusters of queries, eight entries: where counts take part, no entry is chosen much more than an eighth of the time."""
    generator = torch.Generator().manual_seed(seed)
    centres, keys = torch.randn(5, 16, generator=generator), torch.randn(8, 16, generator=generator)
    shares = {}
    for balance in (True, False):
        pool, count = Mvp(8, 1, 1, 1, balance, True), torch.zeros(8, dtype=torch.int64)
        for _ in range(60):
            query = centres[torch.randint(5, (16,), generator=generator)] + 0.3 * torch.randn(16, 16, generator=generator)
            count += torch.bincount(pool.choose(query, keys, count)[1].flatten(), minlength=8)
        shares[balance] = float(count.max() / count.sum())
    assert shares[True] < 0.25 < 0.3 < shares[False]


@pytest.mark.parametrize("seed", range(3))
def test_the_rarest_class_disagrees_most(seed):
    """40, 12, 8 and 4 images of four Gaussian classes under an untrained head."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor([0] * 40 + [1] * 12 + [2] * 8 + [3] * 4)
    features = torch.randn(4, 16, generator=generator)[labels] + 0.5 * torch.randn(64, 16, generator=generator)
    weight, bias = 0.02 * torch.randn(4, 16, generator=generator), torch.zeros(4)
    ign, _, _ = MvpLoss().scores(features, labels, weight, bias, torch.ones(64, 4), torch.arange(64))
    assert ign[labels == 3].mean() > ign[labels == 0].mean()


def test_a_feature_of_zero_has_a_cosine_of_zero():
    ign, _, cps = MvpLoss().scores(torch.zeros(2, 3), torch.tensor([0, 1]), torch.ones(2, 3), None, torch.ones(2, 2), torch.arange(2))
    assert ign.tolist() == [1.0, 1.0] and cps.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("options", [{"alpha": 2.0}, {"gamma": -1.0}, {"margin": 0.0}])
def test_numbers_out_of_range(options):
    with pytest.raises(ValueError, match="alpha from 0 to 1"):
        MvpLoss(**options)


def test_two_active_pools_that_ask_differently_are_refused():
    model = masked()
    model.add_adapter("other", PromptPoolConfig(producer="l2p", e_layers=[2], pool_size=4, top_k=2, e_tokens=3))
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match="different queries"):
        model(images())
