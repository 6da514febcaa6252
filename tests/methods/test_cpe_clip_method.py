"""CPE-CLIP's composition: rates, factors, phases, and what is refused. Its training is replayed in tests/adapters/cpe_clip."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import torch

from hf_cl.adapters import CPEClipConfig
from hf_cl.contracts import Session
from hf_cl.methods.cpe_clip import RATES, CpeClipSettings, cpe_clip
from hf_cl.rules import Plain, SessionScaled

OFFICIAL = json.loads((Path(__file__).parents[1] / "reference" / "cpe_clip" / "reg_factors.json").read_text())


def session(number: int = 1, new: int = 2, seen: int = 6) -> Session:
    names = tuple(str(i) for i in range(seen))
    return Session(number, names, names[seen - new :], train=None, tests=())  # pyright: ignore[reportArgumentType]


def one_parameter() -> list[tuple[str, torch.nn.Parameter]]:
    return [("p", torch.nn.Parameter(torch.tensor([1.0, -2.0])))]


def test_rates_are_those_of_the_official_warm_up():
    _, schedule = cpe_clip(base_epochs=6).optimizer(session(0, 4, 4), one_parameter())
    assert [schedule(epoch, step)[0] for epoch in range(6) for step in (0, 7)] == pytest.approx(
        [rate for rate in OFFICIAL["lr_per_epoch_every_session"][:6] for _ in range(2)], abs=1e-12
    )
    assert list(RATES) == pytest.approx([0.001 + 0.099 * epoch / 50 for epoch in range(6)], abs=1e-12)


def test_a_session_starts_with_a_new_optimizer_and_its_own_length():
    method = cpe_clip(base_epochs=6, session_epochs=4)
    first, _ = method.optimizer(session(0, 4, 4), one_parameter())
    second, _ = method.optimizer(session(1), one_parameter())
    assert type(first) is torch.optim.SGD and first is not second
    assert first.defaults["momentum"] == 0.9 and first.defaults["weight_decay"] == 1e-5
    assert [phase.epochs for s in (session(0, 4, 4), session(1)) for phase in method.phases(s)] == [6, 4]


def test_where_the_factor_acts():
    assert isinstance(cpe_clip().rule, SessionScaled) and isinstance(cpe_clip().rule.inner, Plain)
    for method in (cpe_clip(regularization="none"), cpe_clip(regularization="freeze"), cpe_clip(optimizer="adamw")):
        assert type(method.rule) is Plain
    rates = {}
    for name, settings in {"sgd": {}, "adamw": {"optimizer": "adamw"}, "none": {"optimizer": "adamw", "regularization": "none"}}.items():
        rates[name] = cpe_clip(**settings).optimizer(session(1, 2, 6), one_parameter())[1](0, 0)[0]
    assert rates == pytest.approx({"sgd": 0.001, "adamw": 0.001 / 3, "none": 0.001})


def test_freeze_trains_nothing_after_the_base_session():
    method = cpe_clip(regularization="freeze")
    assert [phase.epochs for phase in method.phases(session(0, 4, 4))] == [5]
    assert [phase.epochs for phase in method.phases(session(1))] == [0]


def train(method, weight_decay_gradient: bool = True) -> torch.Tensor:
    """Three steps of a later session on a quadratic loss."""
    named = one_parameter()
    s = session(1, 2, 6)
    method.rule.begin_session(None, s)
    optimizer, schedule = method.optimizer(s, named)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = schedule(epoch, 0)[0]
        optimizer.zero_grad()
        (named[0][1] ** 2).sum().backward()
        method.rule.transform(named)
        optimizer.step()
    return named[0][1].detach()


def test_scaling_the_rate_is_scaling_the_gradient_for_sgd_without_decay():
    by_gradient, by_rate = (train(cpe_clip(weight_decay=0.0, regularization_scale=scale)) for scale in ("grad", "lr"))
    torch.testing.assert_close(by_gradient, by_rate)
    by_gradient, by_rate = (train(cpe_clip(weight_decay=0.5, regularization_scale=scale)) for scale in ("grad", "lr"))
    assert not torch.allclose(by_gradient, by_rate), "the rate multiplies the decay too"
    assert not torch.allclose(train(cpe_clip()), train(cpe_clip(regularization="none")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "regularization_scale": "grad"}, "scaling it changes nothing"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"regularization": "balanced"}, "regularization must be one of"),
        ({"regularization_scale": "gradient"}, "regularization_scale must be one of"),
        ({"loss_scope": "all"}, "classes must be"),
        ({"base_epochs": 9}, "6 rates for sessions of up to 9 epochs"),
    ],
)
def test_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        cpe_clip(**settings)


def test_a_session_with_one_class_warns(caplog):
    with caplog.at_level(logging.WARNING):
        cpe_clip().phases(session(3, 1, 9))
        assert "Session 3 has one class" in caplog.text and "loss_scope='seen'" in caplog.text
        caplog.clear()
        cpe_clip(loss_scope="seen").phases(session(3, 1, 9))
        cpe_clip(regularization="freeze").phases(session(3, 1, 9))
        assert not caplog.text


def test_a_cosine_instead_of_the_list():
    _, schedule = cpe_clip(learning_rate=0.002, base_epochs=200, regularization="none").optimizer(session(0, 4, 4), one_parameter())
    assert schedule(0, 0) == [0.002] and schedule(100, 3) == pytest.approx([0.001]) and 0 < schedule(199, 0)[0] < 1e-6


def test_settings_make_the_method():
    settings = CpeClipSettings(num_prompt_tokens=3, towers="text", prompt_depth=1, seed=7, optimizer="adamw")
    method = settings.method()
    assert isinstance(method.adapter, CPEClipConfig)
    assert (method.adapter.num_prompt_tokens, method.adapter.towers, method.adapter.init_seed) == (3, "text", 7)
    assert method.adapter.head == {"type": "text", "template": "{}.", "logit_scale": 100.0, "clean_class_names": True}
    assert copy.deepcopy(settings) == settings and type(method.rule) is Plain
