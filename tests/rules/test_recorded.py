"""The rule that a GLAD config records."""

from __future__ import annotations

import pytest

from hf_cl.adapters import GladConfig
from hf_cl.adapters.glad.config import RULES as RECORDED
from hf_cl.rules import RULES, Glad, Plain, Sagm, recorded_rule


@pytest.mark.parametrize("name", RECORDED)
def test_every_rule_is_built_from_its_record(name):
    config = GladConfig(rule=name, rho=0.03, lam=0.7, sagm_alpha=0.01, mu=0.02)
    rule = recorded_rule(config)
    assert type(rule) is RULES[name]
    numbers = {"rho": 0.03, "lam": 0.7, "alpha": 0.01, "mu": 0.02}
    assert all(value == numbers[key] for key, value in vars(rule).items() if key in numbers)
    config.check_rule(recorded_rule(config))


@pytest.mark.parametrize("rule", [Plain(), Glad(rho=0.04), Glad(lam=0.4), Glad(adaptive=True), Sagm()])
def test_another_rule_than_the_record_is_refused(rule):
    with pytest.raises(ValueError, match=rf"config records .*trains by {type(rule).__name__} with"):
        GladConfig().check_rule(rule)
