"""The key-value bottleneck against reference numbers; locality to the bit, and who breaks it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fitted_heads import FakeTrainer, session_of

from hf_cl.heads import build_head
from hf_cl.heads.dkvb import DKVBHead, KeyAverage

REFERENCE = np.load(Path(__file__).parents[1] / "reference" / "dkvb" / "dkvb.npz")


def reference(name: str) -> torch.Tensor:
    return torch.from_numpy(np.asarray(REFERENCE[name]))


def of_reference(top_k: int = 1) -> DKVBHead:
    head = DKVBHead(12, 4, codebooks=3, keys=5, key_dim=4, top_k=top_k, dtype=torch.float64)
    head.projection.copy_(reference("projection"))
    head.keys.copy_(reference("keys"))
    with torch.no_grad():
        head.values.copy_(reference("values"))
    return head


def close(mine, name):
    torch.testing.assert_close(mine, reference(name), rtol=1e-10, atol=1e-10)


def test_numbers_of_the_reference():
    head = of_reference()
    assert torch.equal(head.nearest(reference("features"))[..., 0], reference("index"))
    logits = head(reference("features"))
    close(logits, "logits")
    loss = torch.nn.functional.cross_entropy(logits, reference("labels"))
    close(loss, "loss")
    loss.backward()
    close(head.values.grad, "grad_values")
    assert torch.equal(head.values.grad == 0, reference("grad_values") == 0)
    twice = of_reference(top_k=2)
    assert torch.equal(twice.nearest(reference("features")), reference("topk_index"))
    close(twice(reference("features")), "logits_topk")


def test_moving_averages_of_the_reference():
    average = KeyAverage(reference("keys"), float(REFERENCE["ema_decay"]))
    for i, batch in enumerate(reference("ema_batches")):
        average.update(torch.einsum("bd,hde->bhe", batch, reference("projection")))
        torch.testing.assert_close(average.keys, reference("ema_keys")[i], rtol=1e-10, atol=1e-10)
    close(average.counts, "ema_count")


class Trainer(FakeTrainer):
    accelerator = SimpleNamespace(reduce=lambda tensor, how: tensor)

    @property
    def named_parameters(self):
        return [(f"head.{name}", p) for name, p in self.head.named_parameters()]

    def generator_for(self, *key):
        return torch.Generator().manual_seed(7)


def two_sessions(optimizer_of, overlap=0.0, seed=0, whole=True):
    """Train on classes 0, 1, then 2, 3, as the loop does; the old samples, logits before and after, and whether a chosen key was shared."""
    generator = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(4, 16, generator=generator)
    centers[2:] = overlap * centers[:2] + (1 - overlap) * centers[2:]
    labels = torch.arange(4).repeat_interleave(40)
    features = centers[labels] + torch.randn(160, 16, generator=generator)
    head = DKVBHead(16, 0, codebooks=16, keys=64, key_dim=8)
    trainer = Trainer(head)
    states = []
    for session, classes in enumerate([(0, 1), (2, 3)]):
        mine = (labels == classes[0]) | (labels == classes[1])
        head.grow([str(c) for c in classes])
        head.train().begin_session(trainer, session_of(session, "0123"[: 2 * session + 2], 2, features[mine], labels[mine]))
        head.begin_epoch(trainer, 0)
        optimizer = optimizer_of(head.parameters(), 0.01 * int(mine.sum()) * 16)
        rows = mine.nonzero()[:, 0]
        for step in range(60):
            some = rows[torch.randperm(80, generator=generator)] if whole else rows[4 * step % 80 :][:4]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(head(features[some]), labels[some]).backward()
            optimizer.step()
            head.after_step(trainer)
        states.append(head.eval()(features[labels < 2])[:, :2].detach())
    chosen = head.nearest(features[labels < 2])[..., 0]  # [B, H]
    shared = head.visited[torch.arange(16), chosen].any(1)
    return states, shared, head, features, labels


def plain(parameters, rate):
    return torch.optim.SGD(parameters, lr=rate)


@pytest.mark.parametrize("seed", range(3))
def test_old_samples_whose_keys_nobody_chose_keep_their_bits(seed):
    (before, after), shared, head, features, labels = two_sessions(plain, seed=seed)
    assert (~shared).any()
    assert torch.equal(before[~shared], after[~shared])
    assert (head(features).argmax(1) == labels).double().mean() > 0.8


def test_overlapping_classes_are_kept_better_than_by_a_linear_head():
    kept, forgotten = [], []
    for seed in range(3):
        _, _, head, features, labels = two_sessions(plain, overlap=0.5, seed=seed)
        old = labels < 2
        kept.append(float((head(features[old]).argmax(1) == labels[old]).double().mean()))
        linear = torch.nn.Linear(16, 4)
        for mine in (old, ~old):
            optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
            for _ in range(100):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(linear(features[mine]), labels[mine]).backward()
                optimizer.step()
        forgotten.append(float((linear(features[old]).argmax(1) == labels[old]).double().mean()))
    assert np.mean(kept) > np.mean(forgotten) + 0.2


@pytest.mark.parametrize(
    ("kind", "settings"), [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"weight_decay": 0.1}), (torch.optim.Adam, {})]
)
def test_an_optimizer_that_moves_other_values_is_refused(kind, settings):
    with pytest.raises(ValueError, match="values moved that no image had chosen: a dkvb head needs SGD without momentum"):
        two_sessions(lambda parameters, rate: kind(parameters, lr=0.1, **settings), whole=False)


def test_an_adapter_that_trains_is_refused():
    head = DKVBHead(16, 2, codebooks=4, keys=8)
    trainer = Trainer(head)
    features, labels = torch.randn(20, 16), torch.arange(2).repeat(10)
    head.begin_session(trainer, session_of(0, "ab", 2, features, labels))
    head.begin_epoch(trainer, 0)
    weight = torch.nn.Parameter(torch.zeros(2))
    trainer_named = SimpleNamespace(named_parameters=[("vit.lora_A.weight", weight)], accelerator=trainer.accelerator)
    with pytest.raises(ValueError, match=r"features that stand still, and vit.lora_A.weight trains"):
        head.after_step(trainer_named)


def test_growth_keeps_values_and_a_loaded_head_is_the_same():
    *_, head, features, _ = two_sessions(plain)
    values = head.values.detach().clone()
    head.grow(["4"])
    assert torch.equal(head.values[..., :4], values) and (head.values[..., 4] == 0).all()
    loaded = DKVBHead(16, 5, codebooks=16, keys=64, key_dim=8, projection_seed=9)
    loaded.load_state_dict(head.state_dict())
    assert torch.equal(loaded.eval()(features), head.eval()(features))
    assert "visited" not in head.state_dict()


def test_fewer_images_than_keys(caplog):
    head = DKVBHead(16, 2, codebooks=2, keys=64)
    head.begin_session(Trainer(head), session_of(0, "ab", 2, torch.randn(20, 16), torch.arange(2).repeat(10)))
    assert head.keys.shape == (2, 64, 8) and head.keys.isfinite().all()
    assert "keys are drawn with repetition" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"projection": "split", "codebooks": 5}, "cannot be split into 5 codebooks"), ({"keys": 0}, "keys is a whole number")],
)
def test_a_wrong_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_head({"type": "dkvb", **settings}, 16, 2)
