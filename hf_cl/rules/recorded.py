"""The gradient rule that a GLAD adapter's config records."""

from __future__ import annotations

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


RECORDED: dict[str, type[GradientRule]] = {
    "glad": Glad,
    "sam": Sam,
    "sagm": Sagm,
    "gradient_norm": GradientNorm,
    "prograd": ProGrad,
}
"""The rules that a config has a name and numbers for."""


def record(config: GladConfig, rule: GradientRule) -> None:
    """Write a rule and its numbers into a config; of one that a config cannot name, "none"."""
    name = next((name for name, kind in RECORDED.items() if type(rule) is kind), "none")
    numbers = {"rho": "rho", "lam": "lam", "alpha": "sagm_alpha", "mu": "mu"}
    config.rule = name
    for number, field in numbers.items():
        if name != "none" and number in vars(rule):
            setattr(config, field, vars(rule)[number])


def check_recorded(config: GladConfig, rule: GradientRule) -> None:
    """Raise ValueError where a method trains by another rule than its config records: the adapter would carry a wrong record.

    A rule that a config cannot name, one of your own, goes with `rule="none"`: nothing is recorded then.
    """
    recorded = recorded_rule(config)
    if type(rule) is type(recorded) and vars(rule) == vars(recorded):
        return
    if config.rule == "none" and type(rule) not in RECORDED.values():
        return
    raise ValueError(
        f"The adapter's config records the rule {_words(recorded)}, but the method trains by {_words(rule)}. Set the config's rule and its "
        "numbers (rule='none' for plain LoRA and for a rule of your own)."
    )


def _words(rule: GradientRule) -> str:
    return f"{type(rule).__name__}({', '.join(f'{name}={value}' for name, value in sorted(vars(rule).items()))})"
