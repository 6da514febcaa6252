import pytest
import torch

from hf_cl.heads import LinearHead, PoolerHead, build_head


def head(**kwargs) -> PoolerHead:
    return build_head({"type": "linear", "bias": False, "pooler": True, **kwargs}, 6, 3)


def weights(width=6):
    generator = torch.Generator().manual_seed(0)
    return {"weight": torch.randn(width, width, generator=generator), "bias": torch.randn(width, generator=generator)}


def test_the_spec_builds_it():
    assert type(head()) is PoolerHead and head().bias is None and head(bias=True).bias is not None
    assert type(build_head({"type": "linear", "pooler": False}, 6, 3)) is LinearHead
    with pytest.raises(ValueError, match="pooler must be true or false"):
        build_head({"type": "linear", "pooler": "yes"}, 6, 3)
    assert next(build_head({"type": "linear", "pooler": True}, 6, 3, device="meta", dtype=torch.float64).parameters()).is_meta


def test_embedding_and_logits():
    made, pooler, features = head(), weights(), torch.randn(4, 6)
    assert torch.equal(made.embed(features), features.tanh())  # until weights are loaded
    made.load_pooler(pooler)
    expected = torch.tanh(features @ pooler["weight"].T + pooler["bias"])
    torch.testing.assert_close(made.embed(features), expected)
    torch.testing.assert_close(made(features), expected @ made.weight.T)


def test_growth_leaves_pooler_and_old_rows_alone():
    made, features = head(), torch.randn(4, 6)
    made.load_pooler(weights())
    before, names = made(features), [name for name, _ in made.named_parameters()]
    made.grow(["d", "e"])
    torch.testing.assert_close(made(features)[:, :3], before)
    assert made.num_classes == 5 and [name for name, _ in made.named_parameters()] == names == ["weight", "pooler.weight", "pooler.bias"]


def test_a_pooler_of_another_width_is_refused():
    with pytest.raises(ValueError, match=r"The pooler is \(5, 5\); this head wants \(6, 6\)"):
        head().load_pooler(weights(5))
