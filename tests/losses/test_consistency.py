from __future__ import annotations

import torch
from losses.fakes import context_of, session_of

from hf_cl.contracts import Outputs
from hf_cl.losses import Consistency


def context(logits, base_logits):
    def frozen(role, view=-1):
        assert (role, view) == ("base", 0)
        return Outputs(features=base_logits, logits=base_logits, embedding=base_logits)

    return context_of(logits, torch.zeros(len(logits), dtype=torch.long), session_of(5, 2), frozen=frozen)


def test_only_columns_of_the_base_session_count():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = logits.detach()[:, :3] + 2
    loss = Consistency()(context(logits, target))
    torch.testing.assert_close(loss, torch.tensor(4.0))
    loss.backward()
    assert torch.equal(logits.grad[:, 3:], torch.zeros(4, 2))
    torch.testing.assert_close(logits.grad[:, :3], torch.full((4, 3), -4 / 12))


def test_zero_where_nothing_has_moved():
    logits = torch.randn(4, 5)
    assert Consistency()(context(logits, logits[:, :3])).item() == 0


def test_half_precision_is_compared_in_float32():
    logits = torch.full((4, 5), 300.0).bfloat16()
    assert Consistency()(context(logits, logits[:, :3].float() - 1)).item() == 1
