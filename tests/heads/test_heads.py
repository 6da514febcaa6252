"""What every head must do."""

import copy
import pickle

import pytest
import torch

from hf_cl.heads import HEADS, build_head

every_head = pytest.mark.parametrize("kind", ["linear", "cosine", "prototype", "gaussian", "ridge", "kernel_ridge", "logistic", "fetril"])


def head_of(kind, num_classes=3, **kwargs):
    torch.manual_seed(1)
    return build_head({"type": kind}, 8, num_classes, **kwargs)


def features(count=5, **kwargs):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(2)).to(**kwargs)


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_growth_keeps_old_rows_to_the_bit_and_device_dtype_and_requires_grad(kind, dtype):
    head = head_of(kind, dtype=dtype)
    head.weight.requires_grad_(False)
    before, logits = head.weight.detach().clone(), head(features(dtype=dtype))
    head.grow(["d", "e"])
    assert head.num_classes == 5
    assert torch.equal(head.weight[:3], before)
    assert not head.weight.requires_grad
    assert all(tensor.dtype == dtype for tensor in [*head.parameters(), *head.state_dict().values()])
    assert all(p.requires_grad for name, p in head.named_parameters() if name in ("bias", "scale"))
    new = head(features(dtype=dtype))
    assert new.shape == (5, 5)
    assert new.dtype == dtype
    torch.testing.assert_close(new[:, :3], logits)
    bound = 8**-0.5
    assert head.weight[3:].abs().max() <= bound and head.weight[3:].float().std() > bound / 4


@every_head
def test_growing_by_nothing_changes_nothing_and_a_head_may_begin_empty(kind):
    head = head_of(kind, num_classes=0)
    assert head(features()).shape == (5, 0)
    head.grow([])
    assert head.num_classes == 0
    head.grow(["a"])
    assert head(features()).shape == (5, 1)


@every_head
def test_meta_device(kind):
    head = head_of(kind, device="meta")
    head.grow(["d"])
    assert all(tensor.is_meta for tensor in [*head.parameters(), *head.state_dict().values()])
    real = head_of(kind, num_classes=4)
    head.load_state_dict(real.state_dict(), assign=True)
    assert torch.equal(head.eval()(features()), real.eval()(features()))
    assert not any(tensor.is_meta for tensor in [*head.parameters(), *head.buffers()])
    head(features()).sum().backward()  # nothing that was assigned is shared or read-only


@every_head
@pytest.mark.parametrize("again", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("train", [True, False])
def test_copies_are_equal_and_independent(kind, again, train):
    head = head_of(kind).train(train)
    other = again(head)
    assert torch.equal(head(features()), other(features()))
    other.grow(["d"])
    assert head.num_classes == 3 and other.num_classes == 4
    assert head.state_dict().keys() == other.state_dict().keys()
    assert other(features()).shape == (5, 4)


@every_head
def test_embedding_is_the_features(kind):
    assert head_of(kind).embed(features()) is not None
    assert torch.equal(head_of(kind).embed(features()), features())


def test_build_head_takes_settings():
    assert build_head({"type": "linear", "bias": False}, 4, 2).bias is None
    assert build_head({"type": "cosine", "scale": 4}, 4, 2).scale.item() == 4.0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"bias": True},
            "has no type; give one of linear, cosine, prototype, gaussian, ridge, kernel_ridge, logistic, fetril, dkvb, etf, maxsim",
        ),
        (
            {"type": "lineer"},
            r"Unknown head type 'lineer'.*linear, cosine, prototype, gaussian, .*Did you mean 'linear'",
        ),
        ({"type": "txt"}, r"Unknown head type 'txt'.*Did you mean 'text'"),
        ({"type": 3}, r"Unknown head type 3"),
        ({"type": "cosine", "scal": 2}, r"'cosine' has no setting 'scal'; it has scale\. Did you mean 'scale'\?"),
        ({"type": "linear", "device": "cpu"}, r"'linear' has no setting 'device'"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_nearest_name(spec, message):
    with pytest.raises(ValueError, match=message):
        build_head(spec, 4, 2)


def test_every_type_is_tested_here():
    assert {
        "linear",
        "cosine",
        "prototype",
        "gaussian",
        "ridge",
        "kernel_ridge",
        "logistic",
        "fetril",
        "dkvb",
        "etf",
        "maxsim",
    } <= HEADS.keys()
