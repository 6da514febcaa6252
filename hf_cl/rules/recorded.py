"""The gradient rule that a GLAD adapter's config records."""

from __future__ import annotations

from dataclasses import fields

from hf_cl.adapters import GladConfig
from hf_cl.contracts import GradientRule
from hf_cl.rules.glad import Glad
from hf_cl.rules.gradient_norm import GradientNorm
from hf_cl.rules.plain import Plain
from hf_cl.rules.prograd import ProGrad
from hf_cl.rules.sagm import Sagm
from hf_cl.rules.sam import Sam


def recorded_rule(config: GladConfig) -> GradientRule:
    """The rule named `config.rule`, with the config's numbers."""
    if config.rule == "glad":
        return Glad(config.rho, config.lam)
    if config.rule == "sam":
        return Sam(config.rho)
    if config.rule == "sagm":
        return Sagm(config.rho, config.sagm_alpha)
    if config.rule == "gradient_norm":
        return GradientNorm(config.rho, config.mu or 0.0)
    if config.rule == "prograd":
        return ProGrad(lam=config.lam)
    return Plain()


def record(config: GladConfig, rule: GradientRule) -> None:
    """Write a rule and its numbers into a config; of one that a config cannot name, "none"."""
    known = {f.name for f in fields(config)}
    for name, value in {"rule": "none", **rule.record()}.items():
        if name in known:  # what has no field stays a difference, which `check_rule` names
            setattr(config, name, value)
